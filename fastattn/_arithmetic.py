"""The floating-point environment in which results are defined: round to nearest, no flushing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["in_default_arithmetic"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Variables, so that expressions of them are computed anew each time.
_ONE, _HALF, _LITTLE, _SMALLEST_NORMAL = 1.0, 0.5, 2.0**-60, 2.0**-1022


def in_default_arithmetic(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function with subnormal numbers kept and results rounded to the nearest.

    Another library may have changed that for this thread and not for others.  The thread's own
    environment is back afterwards; threads that `function` starts inherit the default one.
    """
    usual = _SMALLEST_NORMAL * _HALF != 0.0 and _ONE + _LITTLE == _ONE == _ONE - _LITTLE
    if usual or sys.platform != "linux":
        return function(*args, **kwargs)
    import ctypes

    library = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(256)  # a fenv_t is smaller
    library.fegetenv(before)
    library.fesetenv(ctypes.c_void_p(-1))  # FE_DFL_ENV of glibc and of musl
    try:
        return function(*args, **kwargs)
    finally:
        library.fesetenv(before)
