"""What a program sets for floating point, in one of its threads, changes no result."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from targets import Target, dtypes

import fastattn
from fastattn._shapes import SPECS

# The word of a fenv_t that rules, where it lies in it, and its values; the rest is the default.
if platform.machine() in ("x86_64", "AMD64"):
    _AT, _ENVIRONMENTS = 28, {"flushed": 0x9FC0, "up": 0x5F80, "down": 0x3F80, "cut": 0x7F80}
else:
    _AT, _ENVIRONMENTS = 0, {"flushed": 1 << 24, "up": 1 << 22, "down": 2 << 22, "cut": 3 << 22}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="where the environment lies in a fenv_t is known for Linux on x86-64 and AArch64",
)
environments = pytest.mark.parametrize("name", _ENVIRONMENTS)


def _word(environment: ctypes.Array[ctypes.c_char]) -> int:
    return int.from_bytes(environment.raw[_AT : _AT + 4], "little") & ~0x3F  # not what was raised


@contextmanager
def _environment(name: str) -> Iterator[None]:
    """Arithmetic as another library may leave it; it is still so at the end."""
    library = ctypes.CDLL(None)
    before, ours, after = (ctypes.create_string_buffer(256) for _ in range(3))
    library.fegetenv(before)
    library.fegetenv(ours)
    ours[_AT : _AT + 4] = _ENVIRONMENTS[name].to_bytes(4, "little")
    library.fesetenv(ours)
    try:
        yield
        library.fegetenv(after)
    finally:
        library.fesetenv(before)
    assert _word(after) == _ENVIRONMENTS[name]


@environments
@dtypes
def test_the_callers_environment_changes_no_bit(target: Target, dtype: np.dtype, name: str) -> None:
    """Neither of usual numbers nor of subnormal ones, and no spec or plan is made with it."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 4, 33, 13)).astype(dtype) for _ in range(3))
    v[:, 0] *= dtype.type(np.float64(np.finfo(np.float16).tiny) / 2)
    if dtype.itemsize > 2:
        v[:, 1] *= np.finfo(dtype).smallest_normal / 4
    how = {"tunables": {"threads": 2, "block_q": 8}}
    usual = target.both(q, k, v, **how)
    SPECS.clear()
    with _environment(name):
        found = target.both(q, k, v, **how)
    for one, other in zip(usual, found, strict=True):
        assert one.tobytes() == other.tobytes()


@environments
def test_all_threads_read_subnormal_halves(target: Target, name: str) -> None:
    """The mean of equal values is that value, whichever thread computes the row."""
    zeros = np.zeros((2, 4, 64, 9), np.float16)
    tiny = np.full_like(zeros, 3e-5)
    with _environment(name):
        found = target.attention(zeros, zeros, tiny, tunables={"threads": 2, "block_q": 8})
    assert np.array_equal(found, tiny)


@dtypes
def test_numpys_error_state_is_not_the_calls(target: Target, dtype: np.dtype) -> None:
    """``np.seterr(all="raise")``: infinity, NaN and underflow are data here, not faults."""
    rng = np.random.default_rng(1)
    q, k, v = (1e3 * rng.standard_normal((1, 2, 9, 5)) for _ in range(3))
    k[..., 3, :], v[..., 2, 1], q[..., 1, :] = np.inf, np.nan, -np.inf
    q, k, v = (array.astype(dtype) for array in (q, k, v))
    if dtype == np.float16:
        v[..., 4, :] = np.uint16(0x7D00).view(np.float16)  # a signalling NaN
    mask = np.where(rng.random((9, 9)) < 0.5, -np.inf, np.float32(1e30)).astype(np.float32)
    sinks = np.array([np.inf, -np.inf], np.float32)
    sinks[0] = np.uint32(0x7FA00000).view(np.float32)  # a signalling NaN
    arguments = {"mask": mask, "sinks": sinks, "softcap": 1e-3, "kv_lengths": 7, "causal": True}
    usual = target.both(q, k, v, **arguments)
    with np.errstate(all="raise"):
        found = target.both(q, k, v, **arguments)
        assert np.isfinite(fastattn.machine().usable_cpus)
    for one, other in zip(usual, found, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize(
    ("dtype", "q", "k", "scale"),
    [
        ("float32", 1e31, 1e-37, 1e8),  # q * scale overflows
        ("float32", -3e38, 1e-38, 30.0),
        ("float64", 1e301, 1e-307, 1e8),
        ("float32", 1e-12, 3e38, 1e-25),  # q * scale is subnormal
        ("float64", 1e-20, 1e308, 1e-287),
        ("float32", 1e18, 1e18, 1e-35),  # q * k is nearly too large
        ("float32", 1.0, 1.0, 3e38),
        ("float32", 1e-3, 1e-3, -1e7),
        ("float32", 1e30, 1e30, 1e-60),
        ("float16", 3e4, 1e-4, 16.0),
        ("float64", 1.0, 1.0, 1.7e308),
        ("float64", 1.0, 1.0, 5e-324),
    ],
)
def test_scores_that_are_finite(
    target: Target, rows: int, dtype: str, q: float, k: float, scale: float
) -> None:
    """However large or small their factors are: as in long double, within rounding."""
    rng = np.random.default_rng(2)
    keys = (k * (1 + rng.random((1, 40, 1)) / 100)).astype(dtype)
    values = rng.standard_normal((1, 40, 7)).astype(dtype)
    queries = np.full((1, rows, 1), q, dtype)
    exact = [array.astype(np.longdouble) for array in (queries, keys, values)]
    s = exact[0] @ exact[1].swapaxes(1, 2) * np.longdouble(scale)
    e = np.exp(s - s.max(-1, keepdims=True))
    found = target.attention(queries, keys, values, scale=scale)
    error = np.abs(found - e @ exact[2] / e.sum(-1, keepdims=True)).max()
    assert error <= 32 * np.finfo(dtype).eps * max(1.0, float(np.abs(s).max()))
