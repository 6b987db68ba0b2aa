"""A call's shape and data type as words on a command line, and arrays of them."""

from __future__ import annotations

import numpy as np

from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError, UnavailableError, teach

__all__ = ["DTYPE_HELP", "METAVAR", "arrays", "axes"]

METAVAR = "B,Hq,Hkv,Lq,Lk,D[,Dv]"
DTYPE_HELP = ", ".join(DTYPES)


def axes(shape: str) -> tuple[int, ...]:
    """B, Hq, Hkv, Lq, Lk, D and, if it is given, Dv.

    Raises
    ------
    ArgumentError
        `shape` is not understood.
    """
    try:
        found = tuple(int(part) for part in shape.split(","))
    except ValueError:
        found = ()
    if len(found) not in (6, 7) or min(found) < 0:
        raise ArgumentError(
            teach(
                "--shape",
                repr(shape),
                f"6 or 7 whole numbers from 0 up: {METAVAR}",
                "write --shape 1,8,8,2048,2048,64",
            )
        )
    return found


def arrays(shape: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k and v of that shape that take no memory.

    Raises
    ------
    ArgumentError
        `shape` or `dtype` is not understood.
    UnavailableError
        `dtype` needs a package that is not installed.
    """
    found = axes(shape)
    batch, heads_q, heads_kv, length_q, length_k, dim, dim_v = (*found, found[5])[:7]
    zero = np.zeros((), _dtype(dtype))
    return (
        np.broadcast_to(zero, (batch, heads_q, length_q, dim)),
        np.broadcast_to(zero, (batch, heads_kv, length_k, dim)),
        np.broadcast_to(zero, (batch, heads_kv, length_k, dim_v)),
    )


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise UnavailableError(
                teach("--dtype", name, DTYPE_HELP, "pip install ml_dtypes")
            ) from None
        dtype: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return dtype
    if name not in DTYPES:
        raise ArgumentError(teach("--dtype", repr(name), DTYPE_HELP, "correct the name"))
    return np.dtype(name)
