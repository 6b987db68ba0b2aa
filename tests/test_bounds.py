"""Nothing is read beside the arrays: they end, or begin, at a page that may not be touched."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from targets import Target, dtypes

_PAGE = mmap.PAGESIZE
EDGES = ("begin", "end")


def _walled(values: np.ndarray, edge: str) -> np.ndarray:
    """A copy whose `edge` is that of a page that may not be read."""
    room = -(-values.nbytes // _PAGE) * _PAGE
    pages = mmap.mmap(-1, room + 2 * _PAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    libc = ctypes.CDLL(None, use_errno=True)
    for wall in (first, first + _PAGE + room):
        if libc.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(_PAGE), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    start = _PAGE if edge == "begin" else _PAGE + room - values.nbytes
    raw = np.frombuffer(pages, np.uint8, values.nbytes, start)
    copy = raw.view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


@dtypes
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("rows", [1, 4, 8, 13, 40, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_edges(native: Target, dtype: np.dtype, edge: str, rows: int, masked: bool) -> None:
    """Widths and numbers of keys that are no multiple of a vector, of a tile, of a chunk."""
    rng = np.random.default_rng(17)
    for keys, dim, dim_v in ((1, 1, 1), (33, 6, 10), (37, 65, 66), (70, 130, 132), (31, 64, 4)):
        shapes = (rows, dim), (keys, dim), (keys, dim_v)
        plain = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        masks = {"mask": rng.random((rows, keys)) < 0.9} if masked else {}
        tunables = {"block_k": 32, "threads": 1}
        want = native.attention(*plain, tunables=tunables, **masks)
        walled = [_walled(array, edge) for array in plain]
        masks = {name: _walled(mask, edge) for name, mask in masks.items()}
        got = native.attention(*walled, tunables=tunables, **masks)
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))
