"""Arrays of other libraries: read in place, and answered in kind."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from processes import run_python
from strategies import DTYPES, Call, calls

import fastattn
from fastattn import DTypeError, FastattnError, OutputError, _interop
from fastattn._interop import as_ndarrays, from_torch, to_torch


class Shared:
    """An array of a library that fastattn knows nothing of."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __array_namespace__(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(from_dlpack=lambda other: Shared(np.from_dlpack(other)))


class Orphan:
    """An array whose library makes none of another's."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.device = array, (1, 0)

    __dlpack__, __dlpack_device__ = Shared.__dlpack__, Shared.__dlpack_device__


@dataclass(frozen=True)
class Kind:
    """How a library's arrays are made and read."""

    kind: type
    make: Callable[[np.ndarray], Any]
    read: Callable[[Any], np.ndarray]
    dtypes: tuple[str, ...]


def _torch() -> Kind:
    torch = pytest.importorskip("torch")

    return Kind(torch.Tensor, to_torch, from_torch, tuple(DTYPES))


def _jax() -> Kind:
    jax = pytest.importorskip("jax")
    dtypes = tuple(name for name in DTYPES if name != "float64")  # which JAX has to be told
    return Kind(jax.Array, jax.numpy.asarray, np.asarray, dtypes)


def _dlpack() -> Kind:
    dtypes = tuple(name for name in DTYPES if name != "bfloat16")  # which NumPy does not export
    return Kind(Shared, Shared, lambda shared: shared.array, dtypes)


def _shareable(array: np.ndarray) -> np.ndarray:
    """The array, or its copy if strides are negative or split elements: only NumPy has those."""
    if all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides):
        return array
    return array.copy()


MAKERS = {"torch": _torch, "jax": _jax, "dlpack": _dlpack}


@pytest.fixture(params=MAKERS, scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    """One library after the other; one that is not installed is skipped by name."""
    return MAKERS[request.param]()


@settings(max_examples=40)
@given(call=calls())
def test_generated_calls_answer_in_kind(kind: Kind, call: Call) -> None:
    """Bit for bit what NumPy's arrays give, in whatever argument arrays are."""
    if call.arrays[0].dtype.name not in kind.dtypes:
        return
    arguments: dict[str, Any] = call.arguments | {"return_lse": True}
    arguments["config"] = fastattn.Config(**call.tunables)
    expected = fastattn.attention(*call.arrays, **arguments)
    theirs = {
        name: kind.make(_shareable(value)) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    result = fastattn.attention(*(kind.make(_shareable(a)) for a in call.arrays), **theirs)
    for mine, other in zip(result, expected, strict=True):
        assert isinstance(mine, kind.kind)
        assert kind.read(mine).dtype == other.dtype
        np.testing.assert_array_equal(kind.read(mine), other)


def test_nothing_is_copied(kind: Kind) -> None:
    """Inputs are read where they are, whatever their type."""
    for name in kind.dtypes:
        x = kind.make(np.ones((2, 3, 8), DTYPES[name]))
        arguments = dict.fromkeys(("mask", "align", "kv_lengths", "sinks", "out"))
        library, found = as_ndarrays(q=x, k=x, v=x, **arguments)
        assert np.shares_memory(found["q"], kind.read(x))
        assert found["q"].dtype.name == name
        back = library.back(np.ones((2, 3), np.float32), x)
        assert isinstance(back, kind.kind)


def test_explain_takes_them_too(kind: Kind) -> None:
    """What is explained is the same call."""
    array = np.ones((2, 3, 8), np.float32)
    x = kind.make(array)
    assert fastattn.explain(x, x, x).problem == fastattn.explain(array, array, array).problem


def test_subclasses_of_ndarray_give_ndarrays() -> None:
    """As plain arrays do."""
    x = np.ones((3, 4), np.float32)
    assert type(fastattn.attention(x.view(np.recarray), x, x)) is np.ndarray


def test_out_is_written_and_returned() -> None:
    """In every data type; what autograd had saved of it is known to be outdated."""
    torch = pytest.importorskip("torch")
    for name in DTYPES:
        x = torch.randn(2, 3, 8).to(getattr(torch, name))
        out = torch.zeros_like(x)
        assert fastattn.attention(x, x, x, out=out) is out
        assert torch.equal(out, fastattn.attention(x, x, x))
    x = torch.randn(2, 3, 8)
    saved = torch.ones_like(x)
    product = (x.requires_grad_() * saved).sum()
    fastattn.attention(x.detach(), x.detach(), x.detach(), out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_shared_out_is_written() -> None:
    """An array that DLPack exports for writing."""
    x, out = Shared(np.ones((3, 4), np.float32)), Shared(np.zeros((3, 4), np.float32))
    assert fastattn.attention(x, x, x, out=out) is out
    assert (out.array == 1).all()


def test_read_only_arrays() -> None:
    """Taken as inputs, refused as `out`."""
    array = np.ones((3, 4), np.float32)
    array.flags.writeable = False
    x = Shared(array)
    assert (fastattn.attention(x, x, x).array == 1).all()
    with pytest.raises(OutputError, match="cannot be written"):
        fastattn.attention(x, x, x, out=x)
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones((3, 4))
    with pytest.raises(OutputError, match="leave `out` out"):
        fastattn.attention(x, x, x, out=x)


def _refused(words: str, *arrays: Any, error: type = DTypeError, **arguments: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        fastattn.attention(*arrays, **arguments)
    assert "Fix: " in str(caught.value)
    assert isinstance(caught.value, FastattnError)


def test_what_dlpack_cannot_share_is_refused() -> None:
    """Another device, a type that NumPy does not read, a library that gets no result."""
    array = np.ones((3, 4), np.float32)
    _refused("copy it to the CPU", *[Shared(array, (2, 0))] * 3)
    _refused("cannot read", *[Shared(array.astype(DTYPES["bfloat16"]))] * 3)
    _refused("numpy.from_dlpack", *[Orphan(array)] * 3)
    _refused("`k`", array, [[1.0]], array)


def test_what_torch_cannot_share_is_refused() -> None:
    """Each with advice."""
    torch = pytest.importorskip("torch")
    x = torch.ones(3, 4)
    _refused("`k`: .*meta.*\\.cpu", x, x.to("meta"), x)
    _refused("to_dense", x.to_sparse(), x, x)
    _refused("`q, v`.*one library", x, x, x.numpy())
    _refused("`q, mask`.*one library", x, x, x, mask=np.ones((3, 3), bool))
    _refused("`mask`", *[x.numpy()] * 3, mask=torch.ones(3, 3, dtype=torch.bool))
    _refused("cannot read", *[x.to(torch.float8_e4m3fn)] * 3)
    _refused("cannot read", torch._to_functional_tensor(x), x, x)
    gradient = x.clone().requires_grad_()
    _refused(r"`q`.*detach\(\)", gradient, x, x)
    _refused(r"`sinks`.*detach\(\)", x, x, x, sinks=torch.ones(1, requires_grad=True))
    with torch.no_grad():
        assert not fastattn.attention(gradient, x, x).requires_grad
    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(DTypeError, match="Fix: "):
            transform(lambda y: fastattn.attention(y[None], x, x).sum())(x[0])
    with pytest.raises(DTypeError, match="gradients"):
        torch.func.jvp(lambda y: fastattn.attention(y, x, x), (x,), (x,))


def test_without_ml_dtypes_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what gives NumPy that type."""
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.setattr(_interop, "bfloat16_number", _interop.bfloat16_number.__wrapped__)
    x = torch.ones(3, 4)
    assert fastattn.attention(x, x, x).dtype == torch.float32
    _refused("pip install ml_dtypes", *[x.bfloat16()] * 3)


def test_what_jax_cannot_share_is_refused() -> None:
    """Traced arrays have no numbers."""
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones((3, 4))
    for transform in (jax.jit, jax.vmap):
        with pytest.raises(DTypeError, match="pure_callback"):
            transform(lambda y: fastattn.attention(y, x, x))(x)
    through = jax.jit(
        lambda y: jax.pure_callback(
            fastattn.attention, jax.ShapeDtypeStruct(y.shape, y.dtype), y, y, y
        )
    )
    np.testing.assert_allclose(through(x), x, rtol=1e-6)


def test_no_library_is_imported() -> None:
    """Neither by the package nor by its first call."""
    run_python(
        """
        import sys
        import numpy as np
        import fastattn
        x = np.ones((3, 4), np.float32)
        fastattn.attention(x, x, x)
        assert not {"torch", "jax", "onnx", "transformers", "ml_dtypes"} & set(sys.modules)
        """
    )
