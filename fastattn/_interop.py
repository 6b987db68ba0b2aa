"""Arrays of other libraries: one row of `LIBRARIES` for each.

What a call gets from one library it answers with arrays of that library.  Nothing is copied, and
nothing is moved between devices.  No library is imported here: whoever has one of its arrays has
imported it.

A row tells
    owns        whether a type of arrays is this library's
    refusal     why such an array cannot be taken, as (what was received, how to fix it); or None
    to_ndarray  the array as an ndarray: the same memory
    back        an ndarray of the result as an array of this library, beside one that the call got
    written     what is to be done after a result was written to the argument `out`
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastattn._arrays import plain_array
from fastattn._errors import DTypeError, OutputError
from fastattn._machine import native
from fastattn._optional import import_failure

__all__ = [
    "LIBRARIES",
    "Library",
    "as_ndarrays",
    "from_torch",
    "to_torch",
    "torch_library",
]

_ARRAYS = ("q", "k", "v", "mask", "align", "kv_lengths", "sinks", "out")
_CPU = 1  # DLPack's kDLCPU


class Library(NamedTuple):
    """One row; see the module's text."""

    name: str
    owns: Callable[[type], bool]
    refusal: Callable[[Any], tuple[str, str] | None]
    to_ndarray: Callable[[Any], np.ndarray]
    back: Callable[[np.ndarray, Any], Any]
    written: Callable[[Any], None] = lambda out: None

    def answer(self, result: Any, like: Any, out: Any) -> Any:
        """The result of a call, or result and log-sum-exp, as this library's arrays."""
        if isinstance(result, tuple):
            return self.answer(result[0], like, out), self.back(result[1], like)
        if out is None:
            return self.back(result, like)
        self.written(out)
        return out


def as_ndarrays(**arguments: Any) -> tuple[Library, dict[str, Any]]:
    """The library that the arrays of a call are of, and the arguments with them as ndarrays.

    What is no array of any library, such as None and numbers, stays as it is.  DTypeError if
    arrays are of several libraries, or one cannot be taken.
    """
    library, first = _NUMPY, ""
    for name in _ARRAYS:
        value = arguments[name]
        kind: Any = type(value)
        row = None if value is None else _library(kind)
        if row is not None:
            if first and row is not library:
                raise DTypeError(
                    f"{first}, {name}",
                    f"arrays of {library.name} and of {row.name}",
                    "arrays of one library in a call",
                    "convert some: torch.from_numpy, tensor.numpy(), numpy.asarray and "
                    "numpy.from_dlpack share memory",
                )
            library, first = row, first or name
            arguments[name] = _ndarray(row, name, value)
        elif name in ("q", "k", "v"):
            plain_array(name, value)  # refuses it
    return library, arguments


def _ndarray(library: Library, name: str, value: Any) -> np.ndarray:
    if library is _NUMPY:
        return plain_array(name, value)
    try:
        refusal = library.refusal(value)
        array = library.to_ndarray(value) if refusal is None else None
    except Exception as error:  # whatever the library raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        refusal, array = (f"one that NumPy cannot read ({reason})", "pass a NumPy array"), None
    if refusal is not None:
        received, fix = refusal
        accepted = "an array in this machine's memory, of a library that shares it"
        raise DTypeError(name, f"{_described(value)}: {received}", accepted, fix)
    assert array is not None
    if name == "out" and not array.flags.writeable:
        raise OutputError(
            name,
            f"{_described(value)}, which cannot be written to",
            "an array that can",
            "leave `out` out",
        )
    return array


def _described(value: object) -> str:
    kind = type(value)
    return f"a {kind.__module__}.{kind.__qualname__}"


# NumPy


def _numpy_back(array: np.ndarray, like: Any) -> np.ndarray:
    return array


# PyTorch


def _is_torch(kind: type) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.Tensor)


def _torch_refusal(tensor: Any) -> tuple[str, str] | None:
    torch = sys.modules["torch"]
    if not tensor.is_cpu:
        return f"on the device {tensor.device}", "copy it with .cpu()"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return f"of layout {tensor.layout}", "make it dense with .to_dense() or .to_padded_tensor()"
    if _is_differentiated(torch, tensor):
        return (
            "one that requires gradients, which cannot flow through this call",
            "pass tensor.detach(), call under torch.no_grad(), or train with "
            "torch's scaled_dot_product_attention and fastattn.torch.enable()",
        )
    if tensor.dtype is torch.bfloat16 and bfloat16_number() < 0:
        reason = import_failure("ml_dtypes")
        return f"bfloat16, but ml_dtypes cannot be imported ({reason})", "pip install ml_dtypes"
    return None


def _is_differentiated(torch: Any, tensor: Any) -> bool:
    """Whether somebody waits for derivatives, backward or forward, that would not come."""
    if tensor.requires_grad and torch.is_grad_enabled():
        return True
    forward = torch.autograd.forward_ad
    return forward._current_level >= 0 and forward.unpack_dual(tensor).tangent is not None


def from_torch(tensor: Any) -> np.ndarray:
    """A tensor in this machine's memory as an ndarray: the same memory."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    library = torch_library()
    array: np.ndarray | None = None if library is None else library.to_ndarray(tensor)
    return _from_torch_by_steps(tensor) if array is None else array


@functools.cache
def torch_library() -> Any:
    """What shares memory with tensors in one step, both ways: see ``_native.pyx``.

    None without the compiled extension, or where PyTorch is older than this protocol of DLPack.
    It knows the memory alone: that a tensor is the negative of it, or requires gradients, is for
    the caller to find out.
    """
    exchange = getattr(sys.modules["torch"].Tensor, "__dlpack_c_exchange_api__", None)
    compiled, _ = native()
    if exchange is None or compiled is None:
        return None
    try:
        return compiled.Library(exchange, bfloat16_number())
    except ValueError:  # another version of it
        return None


def _from_torch_by_steps(tensor: Any) -> np.ndarray:
    if tensor.requires_grad:
        tensor = tensor.detach()
    torch = sys.modules["torch"]
    if torch._is_functional_tensor(tensor):
        raise BufferError("a wrapper, without memory of its own")
    array: np.ndarray
    if tensor.dtype is torch.bfloat16:
        array = tensor.view(torch.int16).numpy().view(bfloat16_dtype())
    else:
        array = tensor.numpy()
    return array


def to_torch(array: np.ndarray) -> Any:
    """An ndarray as a tensor: the same memory."""
    torch = sys.modules["torch"]
    if array.dtype.kind == "V":  # bfloat16, to NumPy
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _torch_back(array: np.ndarray, like: Any) -> Any:
    library = torch_library()
    return to_torch(array) if library is None else library.from_ndarray(array)


def _torch_written(out: Any) -> None:
    """What autograd has saved of `out` is outdated."""
    if not out.is_inference():
        sys.modules["torch"].autograd.graph.increment_version(out)


@functools.cache
def bfloat16_dtype() -> np.dtype:
    """NumPy's data type of that name, from ml_dtypes."""
    import ml_dtypes

    dtype: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return dtype


@functools.cache
def bfloat16_number() -> int:
    """NumPy's number of that data type, or -1 without ml_dtypes."""
    return bfloat16_dtype().num if import_failure("ml_dtypes") is None else -1


# JAX


def _is_jax(kind: type) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and issubclass(kind, (jax.Array, jax.core.Tracer))


def _jax_refusal(array: Any) -> tuple[str, str] | None:
    jax = sys.modules["jax"]
    if isinstance(array, jax.core.Tracer):
        return (
            "traced by a transformation such as jit, grad or vmap",
            "call outside of it, or through jax.pure_callback",
        )
    devices = sorted(str(device) for device in array.devices() if device.platform != "cpu")
    if devices:
        return f"on the device {', '.join(devices)}", "copy it with jax.device_get"
    return None


def _jax_back(array: np.ndarray, like: Any) -> Any:
    """Shares memory if it is aligned as XLA wants it, else a copy."""
    jax = sys.modules["jax"]
    return jax.numpy.asarray(array, dtype=array.dtype)


# Whatever has __dlpack__


def _has_dlpack(kind: type) -> bool:
    return hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__")


def _dlpack_refusal(array: Any) -> tuple[str, str] | None:
    kind, number = array.__dlpack_device__()
    if int(kind) != _CPU:
        return f"on the DLPack device ({int(kind)}, {number})", "copy it to the CPU"
    if _importer(array) is None:
        return (
            "of a library without from_dlpack, so it could not have the result",
            "pass numpy.from_dlpack of it",
        )
    return None


def _importer(array: Any) -> Callable[[np.ndarray], Any] | None:
    """What makes arrays of the library that `array` is of."""
    if hasattr(array, "__array_namespace__"):
        found: Callable[[np.ndarray], Any] = array.__array_namespace__().from_dlpack
        return found
    library = sys.modules.get(type(array).__module__.partition(".")[0])
    return getattr(library, "from_dlpack", None)


def _dlpack_back(array: np.ndarray, like: Any) -> Any:
    importer = _importer(like)
    assert importer is not None  # else it was refused
    return importer(array)


_NUMPY = Library(
    "numpy",
    lambda kind: issubclass(kind, np.ndarray),
    lambda array: None,
    lambda array: array,
    _numpy_back,
)
# The first row that owns a type has it.
LIBRARIES = (
    _NUMPY,
    Library("torch", _is_torch, _torch_refusal, from_torch, _torch_back, _torch_written),
    Library("jax", _is_jax, _jax_refusal, np.asarray, _jax_back),
    Library("a library with DLPack", _has_dlpack, _dlpack_refusal, np.from_dlpack, _dlpack_back),
)


@functools.lru_cache(maxsize=64)
def _library(kind: type) -> Library | None:
    return next((row for row in LIBRARIES if row.owns(kind)), None)
