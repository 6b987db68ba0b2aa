"""Arrays as arguments: what is accepted as one, and where the result can be written."""

from __future__ import annotations

import numpy as np

from fastattn._dtypes import lookup
from fastattn._errors import DTypeError, OutputError
from fastattn._spec import CallSpec

__all__ = ["checked_out", "fits_scores", "plain_array"]

_OVERLAP_EFFORT = 100_000  # candidate solutions numpy.shares_memory may look at


def plain_array(name: str, value: object) -> np.ndarray:
    """`value` as a plain ndarray, not copied."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        advice = ", and mask keys with `mask` (True = may attend)" if name in "qkv" else ""
        raise DTypeError(
            name, "a numpy.ma.MaskedArray", "a plain NumPy array", f"pass {name}.data{advice}"
        )
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    kind = type(value)
    raise DTypeError(
        name,
        f"an object of type {kind.__module__}.{kind.__qualname__}",
        "a NumPy array in this machine's memory",
        "convert it with numpy.asarray; copy a tensor of another device to the CPU first",
    )


def fits_scores(dtype: np.dtype, call: str) -> bool:
    """Whether numbers of `dtype` may be added to the scores: the call's own type or float32."""
    row = lookup(dtype)
    return row is not None and row.name in (call, "float32")


def checked_out(
    value: object, dtype: np.dtype, spec: CallSpec, inputs: dict[str, np.ndarray | None]
) -> np.ndarray:
    """The argument `out`, to which the result of a call with `inputs` can be written."""
    out = plain_array("out", value)
    received = _unfit(out, dtype, spec, inputs)
    if received is not None:
        raise OutputError(
            "out",
            received,
            f"a writeable {dtype} array of shape {spec.out_shape}",
            f"allocate it with numpy.empty({spec.out_shape}, q.dtype)",
        )
    return out


def _unfit(
    out: np.ndarray, dtype: np.dtype, spec: CallSpec, inputs: dict[str, np.ndarray | None]
) -> str | None:
    """Why the result cannot be written to `out`; None if it can."""
    if out.dtype != dtype:
        return f"data type {out.dtype}"
    if out.shape != spec.out_shape:
        return f"shape {out.shape}"
    flags = out.flags
    if not flags.writeable:
        return "a read-only array"
    if not flags.c_contiguous and _overlaps_itself(out):
        return f"strides {out.strides}, which visit a byte twice"
    for name, array in inputs.items():
        if array is None:
            continue
        # Arrays that both own their memory cannot overlap; comparing extents takes much longer.
        if flags.owndata and array is not out and array.flags.owndata:
            continue
        if not np.may_share_memory(out, array):
            continue
        try:
            shared = np.shares_memory(out, array, max_work=_OVERLAP_EFFORT)  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            shared = True
        if shared:
            return f"an array that overlaps `{name}` in memory"
    return None


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements may share a byte; never False if they do."""
    span = array.itemsize
    axes = sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
    for stride, count in axes:
        if stride < span:
            return array.size > 0
        span += stride * (count - 1)
    return False
