"""A problem to tune, given by its shape and data type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastattn import _shapes
from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError, UnavailableError, format_error
from fastattn._spec import CallSpec

__all__ = ["numpy_dtype", "spec_of"]


def spec_of(shape: Sequence[int], dtype: str, causal: bool) -> CallSpec:
    """CallSpec of a call of that shape; a causal mask is aligned bottom-right.

    Raises
    ------
    FastattnError
        The call would be refused, or there is nothing to compute.
    """
    spec = _shapes.spec_of(shape, dtype, causal=causal)
    if spec.multiply_adds == 0:
        raise ArgumentError(
            format_error(
                "shape", repr(shape), "axes above 0", "there is nothing to compute or to tune"
            )
        )
    return spec


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's data type of that name."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise UnavailableError(
                format_error("dtype", name, ", ".join(DTYPES), "pip install ml_dtypes")
            ) from None
        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype
    if name not in DTYPES:
        raise ArgumentError(
            format_error("dtype", repr(name), ", ".join(DTYPES), "correct the name")
        )
    return np.dtype(name)
