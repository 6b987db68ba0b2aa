"""The table of data types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from strategies import DTYPES as REAL

from fastattn._dtypes import DTYPES, lookup


@pytest.mark.parametrize("name", DTYPES)
def test_row_says_what_numpy_says(name: str) -> None:
    """Size, epsilon and compute type are those of the real data type."""
    row, real = DTYPES[name], REAL[name]
    assert lookup(real) is row
    assert lookup(np.dtype(real.str) if real.kind == "f" else real) is row
    assert row.name == real.name
    assert row.itemsize == real.itemsize
    assert row.compute == (np.float64 if name == "float64" else np.float32)


def test_codes_differ() -> None:
    """No two types share a code."""
    codes = [row.code for row in DTYPES.values()]
    assert len(set(codes)) == len(codes)
    assert set(DTYPES) == set(REAL)


@pytest.mark.parametrize(
    "dtype", [">f4", ">f8", ">f2", "i4", "u1", "?", "c8", "O", "U3", "V4", "f4,f4", "longdouble"]
)
def test_others_have_no_row(dtype: str) -> None:
    """Other types, and other byte orders, are not accepted; asked twice, still not."""
    assert lookup(np.dtype(dtype)) is None
    assert lookup(np.dtype(dtype)) is None


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int4"])
def test_other_types_of_ml_dtypes_have_no_row(name: str) -> None:
    """Of ml_dtypes only bfloat16 is accepted."""
    assert lookup(np.dtype(getattr(ml_dtypes, name))) is None


@pytest.mark.parametrize("name", REAL)
def test_result_follows_the_input(name: str) -> None:
    """Result in the input's type, log-sum-exp in the compute type."""
    import fastattn

    x = np.ones((3, 4), REAL[name])
    out, lse = fastattn.attention(x, x, x, return_lse=True, impl="numpy")
    assert out.dtype == REAL[name]
    assert lse.dtype == DTYPES[name].compute
