"""Arrays that are refused: a `FastattnError` says how to fix the call, and `out` is untouched.

One row of `REFUSALS` for each: what is changed in a good call, the error, and the words
that name the argument.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from refusals import F32, Refusal, good, refuse, zeros
from targets import Target

from fastattn import DTypeError, OutputError, ShapeError


class Tensor:
    """An array of another library, on another device: it converts only when asked."""

    shape, ndim, dtype, device = (2, 4, 5, 8), 4, "float32", "cuda:0"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def _read_only() -> np.ndarray:
    out = np.full((2, 4, 5, 6), 7, F32)
    out.flags.writeable = False
    return out


def _overlapping(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`out` that shares one element with an input."""
    shapes = {"q": (2, 4, 5, 8), "k": (2, 2, 7, 8), "v": (2, 2, 7, 6), "mask": (2, 4, 5, 7)}

    def change(call: dict[str, Any]) -> dict[str, Any]:
        size = int(np.prod(shapes[name]))
        whole = np.ones(size + 239, F32)
        return {name: whole[:size].reshape(shapes[name]), "out": whole[-240:].reshape(2, 4, 5, 6)}

    return change


def _self_overlapping() -> np.ndarray:
    raw = np.full(2000, 7, F32)
    return np.lib.stride_tricks.as_strided(raw, (2, 4, 5, 6), (480, 120, 20, 4))


REFUSALS = [
    Refusal(*row)
    for row in (
        # what is no array
        ("list", {"q": [[1.0, 2.0]]}, DTypeError, "q"),
        ("none", {"k": None}, DTypeError, "k"),
        ("number", {"v": 3.0}, DTypeError, "v"),
        ("string", {"q": "query"}, DTypeError, "q"),
        ("memoryview", {"q": memoryview(b"1234")}, DTypeError, "q"),
        ("scalar", {"k": np.float32(1)}, DTypeError, "k"),
        ("another_devices_tensor", {"q": Tensor()}, DTypeError, "q"),
        ("masked_array", {"k": np.ma.zeros((2, 2, 7, 8), F32)}, DTypeError, "k"),
        ("mask_list", {"mask": [[True]]}, DTypeError, "mask"),
        ("mask_true", {"mask": True}, DTypeError, "mask"),
        ("mask_tensor", {"mask": Tensor()}, DTypeError, "mask"),
        ("mask_masked_array", {"mask": np.ma.ones((5, 7), bool)}, DTypeError, "mask"),
        ("sinks_list", {"sinks": [0.0] * 4}, DTypeError, "sinks"),
        ("sinks_number", {"sinks": 0.0}, DTypeError, "sinks"),
        ("out_list", {"out": [1.0]}, DTypeError, "out"),
        ("out_tensor", {"out": Tensor()}, DTypeError, "out"),
        ("out_masked_array", {"out": np.ma.zeros((2, 4, 5, 6), F32)}, DTypeError, "out"),
        # data types
        ("object_array", {"q": zeros(2, 4, 5, 8, dtype=object)}, DTypeError, "q"),
        ("integers", {n: zeros(7, 8, dtype=np.int64) for n in "qkv"}, DTypeError, "q, k, v"),
        ("booleans", {n: zeros(7, 8, dtype=bool) for n in "qkv"}, DTypeError, "q, k, v"),
        ("complex", {n: zeros(7, 8, dtype=np.complex64) for n in "qkv"}, DTypeError, "q, k, v"),
        (
            "longdouble",
            {n: zeros(7, 8, dtype=np.dtype("V16")) for n in "qkv"},
            DTypeError,
            "q, k, v",
        ),
        (
            "float8",
            {n: zeros(7, 8, dtype=ml_dtypes.float8_e4m3fn) for n in "qkv"},
            DTypeError,
            "q, k, v",
        ),
        ("records", {n: zeros(7, 8, dtype="f4,f4") for n in "qkv"}, DTypeError, "q, k, v"),
        ("text", {n: zeros(7, 8, dtype="U4") for n in "qkv"}, DTypeError, "q, k, v"),
        ("dates", {n: zeros(7, 8, dtype="M8[s]") for n in "qkv"}, DTypeError, "q, k, v"),
        ("mixed", {"k": zeros(2, 2, 7, 8, dtype=np.float64)}, DTypeError, "q, k, v"),
        ("mixed_16_bit", {"v": zeros(2, 2, 7, 6, dtype=np.float16)}, DTypeError, "q, k, v"),
        (
            "byte_order",
            {n: zeros(7, 8, dtype=np.dtype(F32).newbyteorder()) for n in "qkv"},
            DTypeError,
            "byte order",
        ),
        ("one_byte_order", {"k": np.zeros((2, 2, 7, 8), ">f4")}, DTypeError, "q, k, v"),
        ("integer_mask", {"mask": np.ones((5, 7), np.int32)}, DTypeError, "mask"),
        ("uint8_mask", {"mask": np.ones((5, 7), np.uint8)}, DTypeError, "mask"),
        ("object_mask", {"mask": np.ones((5, 7), object)}, DTypeError, "mask"),
        ("float64_mask", {"mask": np.ones((5, 7), np.float64)}, DTypeError, "mask"),
        ("float16_mask", {"mask": np.ones((5, 7), np.float16)}, DTypeError, "mask"),
        ("mask_byte_order", {"mask": np.ones((5, 7), ">f4")}, DTypeError, "mask"),
        ("integer_sinks", {"sinks": np.ones(4, np.int64)}, DTypeError, "sinks"),
        ("float64_sinks", {"sinks": np.ones(4, np.float64)}, DTypeError, "sinks"),
        ("sinks_byte_order", {"sinks": np.ones(4, ">f4")}, DTypeError, "sinks"),
        # ranks and shapes
        ("zero_d", {"q": np.zeros((), F32)}, ShapeError, "q, k, v"),
        ("one_d", {n: zeros(8) for n in "qkv"}, ShapeError, "q, k, v"),
        ("two_d_and_three_d", {"q": zeros(5, 8)}, ShapeError, "q, k, v"),
        ("other_d", {"k": zeros(2, 2, 7, 9)}, ShapeError, "q, k"),
        ("other_lk", {"v": zeros(2, 2, 8, 6)}, ShapeError, "k, v"),
        ("no_features", {"q": zeros(2, 4, 5, 0), "k": zeros(2, 2, 7, 0)}, ShapeError, "q, k, v"),
        ("no_value_features", {"v": zeros(2, 2, 7, 0)}, ShapeError, "q, k, v"),
        ("heads_not_a_multiple", {"q": zeros(2, 3, 5, 8)}, ShapeError, "q, k, v"),
        ("fewer_query_heads", {"q": zeros(2, 1, 5, 8)}, ShapeError, "q, k, v"),
        ("other_value_heads", {"v": zeros(2, 1, 7, 6)}, ShapeError, "q, k, v"),
        ("no_heads", {n: zeros(2, 0, 7, 8) for n in "qkv"}, ShapeError, "q, k, v"),
        ("no_query_heads", {"q": zeros(2, 0, 5, 8)}, ShapeError, "q, k, v"),
        ("batches", {"q": zeros(3, 4, 5, 8)}, ShapeError, "q, k, v"),
        ("mask_shape", {"mask": np.ones((5, 6), bool)}, ShapeError, "mask"),
        ("mask_rank", {"mask": np.ones((1, 1, 1, 1, 5, 7), bool)}, ShapeError, "mask"),
        ("mask_larger_batch", {"mask": np.ones((3, 1, 5, 7), bool)}, ShapeError, "mask"),
        (
            "mask_rank_of_2_d",
            {**{n: zeros(7, 8) for n in "qkv"}, "mask": np.ones((1, 7, 7), bool)},
            ShapeError,
            "mask",
        ),
        ("sinks_shape", {"sinks": np.ones(3, F32)}, ShapeError, "sinks"),
        ("sinks_rank", {"sinks": np.ones((1, 4), F32)}, ShapeError, "sinks"),
        ("sinks_zero_d", {"sinks": np.ones((), F32)}, ShapeError, "sinks"),
        ("kv_lengths_shape", {"kv_lengths": np.array([1, 2, 3])}, ShapeError, "kv_lengths"),
        ("kv_lengths_rank", {"kv_lengths": np.array([[1, 2]])}, ShapeError, "kv_lengths"),
        ("align_shape", {"causal": True, "align": np.array([1, 2, 3])}, ShapeError, "align"),
        # sizes that overflow
        (
            "huge_batch",
            {
                "q": zeros(2**30, 4, 2**20, 8),
                "k": zeros(1, 2, 2**12, 8),
                "v": zeros(1, 2, 2**12, 6),
            },
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_lengths",
            {"q": zeros(2**36, 2), "k": zeros(2**36, 2), "v": zeros(2**36, 2)},
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_result",
            {"q": zeros(2**31, 2**20, 1, 1), "k": zeros(1, 1, 0, 1), "v": zeros(1, 1, 0, 2**13)},
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_product_of_batches",
            {
                "q": zeros(2**30, 1, 1, 1, 4),
                "k": zeros(2**30, 1, 1, 4),
                "v": zeros(2**30, 1, 1, 4),
            },
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_empty_result",
            {
                "q": zeros(2**30, 1, 1, 0, 4),
                "k": zeros(2**30, 1, 7, 4),
                "v": zeros(2**30, 1, 7, 4),
                "out": None,
            },
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_empty_scores",
            {
                "q": zeros(2**25, 1, 1, 0, 1),
                "k": zeros(2**25, 1, 2**20, 1),
                "v": zeros(2**25, 1, 2**20, 1),
                "out": None,
            },
            ShapeError,
            "q, k, v",
        ),
        # results
        ("out_dtype", {"out": np.full((2, 4, 5, 6), 7, np.float64)}, OutputError, "out"),
        ("out_byte_order", {"out": np.full((2, 4, 5, 6), 7, ">f4")}, OutputError, "out"),
        ("out_integers", {"out": np.full((2, 4, 5, 6), 7, np.int32)}, OutputError, "out"),
        ("out_shape", {"out": np.full((2, 4, 5, 8), 7, F32)}, OutputError, "out"),
        ("out_rank", {"out": np.full((1, 2, 4, 5, 6), 7, F32)}, OutputError, "out"),
        ("out_smaller", {"out": np.full((1, 4, 5, 6), 7, F32)}, OutputError, "out"),
        ("out_read_only", lambda call: {"out": _read_only()}, OutputError, "out"),
        ("out_broadcast", {"out": zeros(2, 4, 5, 6)}, OutputError, "out"),
        ("out_overlaps_itself", lambda call: {"out": _self_overlapping()}, OutputError, "out"),
        ("out_overlaps_q", _overlapping("q"), OutputError, "`q`"),
        ("out_overlaps_k", _overlapping("k"), OutputError, "`k`"),
        ("out_overlaps_v", _overlapping("v"), OutputError, "`v`"),
        ("out_overlaps_mask", _overlapping("mask"), OutputError, "`mask`"),
        ("out_is_q", lambda call: {"v": call["k"], "out": call["q"]}, OutputError, "`q`"),
        (
            "out_overlaps_sinks",
            lambda call: {"sinks": call["out"][0, 0, 0, :4]},
            OutputError,
            "`sinks`",
        ),
    )
]


def test_the_good_call_is_good(target: Target) -> None:
    """What the refusals change is accepted as it stands."""
    call = good()
    arrays = [call.pop(name) for name in "qkv"]
    assert target.attention(*arrays, **call) is call["out"]
    assert not (call["out"] == 7).any()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda row: row.name)
def test_refused(target: Target, refusal: Refusal) -> None:
    """Refused, whichever implementation is asked for."""
    refuse(refusal, impl=target.impl, config=target.config())


def test_names_are_unique() -> None:
    """Each row can be named on the command line."""
    names = [row.name for row in REFUSALS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "change",
    [
        {"q": zeros(2**40, 1, 2, 2), "k": zeros(1, 1, 3, 2), "v": zeros(1, 1, 3, 2)},
        {"q": zeros(2**38, 2), "k": zeros(3, 2), "v": zeros(3, 2)},
    ],
    ids=["batch", "length"],
)
def test_result_that_does_not_fit_in_memory(target: Target, change: dict[str, Any]) -> None:
    """A legal call that is too large is a MemoryError, not a crash."""
    with pytest.raises(MemoryError):
        target.attention(change["q"], change["k"], change["v"])


def test_overlap_that_is_hard_to_decide_is_refused_in_time() -> None:
    """Interleaved strides whose overlap is a hard puzzle: an answer, never a hang."""
    code = """
import numpy as np, fastattn
raw = np.zeros(1 << 22, np.uint8)
out = np.ndarray((3, 5, 7, 11), np.float32, raw.data, 0, (4 * 104729, 4 * 15013, 4 * 1999, 4 * 97))
q = np.ndarray((3, 5, 7, 11), np.float32, raw.data, 4, (4 * 99991, 4 * 14009, 4 * 1777, 4 * 89))
k = np.zeros((3, 5, 7, 11), np.float32)
try:
    fastattn.attention(q, k, k, out=out, impl="numpy")
except fastattn.OutputError:
    pass
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
