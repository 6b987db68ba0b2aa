"""Every kind of bad input is refused with a `FastattnError` that teaches, and `out` untouched.

One row of `REFUSALS` for each: what is changed in a good call, the error, and the words
that name the argument.
"""

from __future__ import annotations

import decimal
import fractions
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from targets import RUNNABLE, Target

import fastattn
from fastattn import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    DTypeError,
    FastattnError,
    OutputError,
    ShapeError,
    UnavailableError,
)

F32 = np.float32


def _good() -> dict[str, Any]:
    """A call that is accepted: B 2, Hq 4, Hkv 2, Lq 5, Lk 7, D 8, Dv 6."""
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((2, 4, 5, 8), dtype=F32),
        "k": rng.standard_normal((2, 2, 7, 8), dtype=F32),
        "v": rng.standard_normal((2, 2, 7, 6), dtype=F32),
        "out": np.full((2, 4, 5, 6), 7, F32),
    }


class Tensor:
    """An array of another library, on another device: it converts only when asked."""

    shape, ndim, dtype, device = (2, 4, 5, 8), 4, "float32", "cuda:0"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def _zeros(*shape: int, dtype: Any = F32) -> np.ndarray:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


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


@dataclass(frozen=True)
class Refusal:
    """A change to the good call, the error it brings, and a word of its message."""

    name: str
    change: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]
    error: type[FastattnError]
    argument: str

    def arguments(self) -> dict[str, Any]:
        """The whole bad call."""
        call = _good()
        change = self.change(call) if callable(self.change) else self.change
        return {**call, **change}


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
        ("object_array", {"q": _zeros(2, 4, 5, 8, dtype=object)}, DTypeError, "q"),
        ("integers", {n: _zeros(7, 8, dtype=np.int64) for n in "qkv"}, DTypeError, "q, k, v"),
        ("booleans", {n: _zeros(7, 8, dtype=bool) for n in "qkv"}, DTypeError, "q, k, v"),
        ("complex", {n: _zeros(7, 8, dtype=np.complex64) for n in "qkv"}, DTypeError, "q, k, v"),
        (
            "longdouble",
            {n: _zeros(7, 8, dtype=np.dtype("V16")) for n in "qkv"},
            DTypeError,
            "q, k, v",
        ),
        (
            "float8",
            {n: _zeros(7, 8, dtype=ml_dtypes.float8_e4m3fn) for n in "qkv"},
            DTypeError,
            "q, k, v",
        ),
        ("records", {n: _zeros(7, 8, dtype="f4,f4") for n in "qkv"}, DTypeError, "q, k, v"),
        ("text", {n: _zeros(7, 8, dtype="U4") for n in "qkv"}, DTypeError, "q, k, v"),
        ("dates", {n: _zeros(7, 8, dtype="M8[s]") for n in "qkv"}, DTypeError, "q, k, v"),
        ("mixed", {"k": _zeros(2, 2, 7, 8, dtype=np.float64)}, DTypeError, "q, k, v"),
        ("mixed_16_bit", {"v": _zeros(2, 2, 7, 6, dtype=np.float16)}, DTypeError, "q, k, v"),
        (
            "byte_order",
            {n: _zeros(7, 8, dtype=np.dtype(F32).newbyteorder()) for n in "qkv"},
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
        ("one_d", {n: _zeros(8) for n in "qkv"}, ShapeError, "q, k, v"),
        ("two_d_and_three_d", {"q": _zeros(5, 8)}, ShapeError, "q, k, v"),
        ("other_d", {"k": _zeros(2, 2, 7, 9)}, ShapeError, "q, k"),
        ("other_lk", {"v": _zeros(2, 2, 8, 6)}, ShapeError, "k, v"),
        ("no_features", {"q": _zeros(2, 4, 5, 0), "k": _zeros(2, 2, 7, 0)}, ShapeError, "q, k, v"),
        ("no_value_features", {"v": _zeros(2, 2, 7, 0)}, ShapeError, "q, k, v"),
        ("heads_not_a_multiple", {"q": _zeros(2, 3, 5, 8)}, ShapeError, "q, k, v"),
        ("fewer_query_heads", {"q": _zeros(2, 1, 5, 8)}, ShapeError, "q, k, v"),
        ("other_value_heads", {"v": _zeros(2, 1, 7, 6)}, ShapeError, "q, k, v"),
        ("no_heads", {n: _zeros(2, 0, 7, 8) for n in "qkv"}, ShapeError, "q, k, v"),
        ("no_query_heads", {"q": _zeros(2, 0, 5, 8)}, ShapeError, "q, k, v"),
        ("batches", {"q": _zeros(3, 4, 5, 8)}, ShapeError, "q, k, v"),
        ("mask_shape", {"mask": np.ones((5, 6), bool)}, ShapeError, "mask"),
        ("mask_rank", {"mask": np.ones((1, 1, 1, 1, 5, 7), bool)}, ShapeError, "mask"),
        ("mask_larger_batch", {"mask": np.ones((3, 1, 5, 7), bool)}, ShapeError, "mask"),
        (
            "mask_rank_of_2_d",
            {**{n: _zeros(7, 8) for n in "qkv"}, "mask": np.ones((1, 7, 7), bool)},
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
                "q": _zeros(2**30, 4, 2**20, 8),
                "k": _zeros(1, 2, 2**12, 8),
                "v": _zeros(1, 2, 2**12, 6),
            },
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_lengths",
            {"q": _zeros(2**36, 2), "k": _zeros(2**36, 2), "v": _zeros(2**36, 2)},
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_result",
            {"q": _zeros(2**31, 2**20, 1, 1), "k": _zeros(1, 1, 0, 1), "v": _zeros(1, 1, 0, 2**13)},
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_product_of_batches",
            {
                "q": _zeros(2**30, 1, 1, 1, 4),
                "k": _zeros(2**30, 1, 1, 4),
                "v": _zeros(2**30, 1, 1, 4),
            },
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_empty_result",
            {
                "q": _zeros(2**30, 1, 1, 0, 4),
                "k": _zeros(2**30, 1, 7, 4),
                "v": _zeros(2**30, 1, 7, 4),
                "out": None,
            },
            ShapeError,
            "q, k, v",
        ),
        (
            "huge_empty_scores",
            {
                "q": _zeros(2**25, 1, 1, 0, 1),
                "k": _zeros(2**25, 1, 2**20, 1),
                "v": _zeros(2**25, 1, 2**20, 1),
                "out": None,
            },
            ShapeError,
            "q, k, v",
        ),
        # flags
        ("causal_one", {"causal": 1}, ArgumentTypeError, "causal"),
        ("causal_none", {"causal": None}, ArgumentTypeError, "causal"),
        ("causal_text", {"causal": "yes"}, ArgumentTypeError, "causal"),
        ("causal_array", {"causal": np.ones(2, bool)}, ArgumentTypeError, "causal"),
        ("return_lse_one", {"return_lse": 1}, ArgumentTypeError, "return_lse"),
        ("return_lse_none", {"return_lse": None}, ArgumentTypeError, "return_lse"),
        # numbers
        ("scale_nan", {"scale": float("nan")}, ArgumentError, "scale"),
        ("scale_inf", {"scale": -np.inf}, ArgumentError, "scale"),
        ("scale_numpy_nan", {"scale": F32("nan")}, ArgumentError, "scale"),
        ("scale_bool", {"scale": True}, ArgumentTypeError, "scale"),
        ("scale_numpy_bool", {"scale": np.True_}, ArgumentTypeError, "scale"),
        ("scale_text", {"scale": "0.5"}, ArgumentTypeError, "scale"),
        ("scale_complex", {"scale": 1j}, ArgumentTypeError, "scale"),
        ("scale_array", {"scale": np.ones(4)}, ArgumentTypeError, "scale"),
        ("scale_zero_d", {"scale": np.array(0.5)}, ArgumentTypeError, "scale"),
        ("scale_decimal", {"scale": decimal.Decimal(1)}, ArgumentTypeError, "scale"),
        ("scale_beyond_float", {"scale": 10**400}, ArgumentError, "scale"),
        ("scale_beyond_float32", {"scale": 1e39}, ArgumentError, "scale"),
        ("softcap_zero", {"softcap": 0}, ArgumentError, "softcap"),
        ("softcap_negative", {"softcap": -1.0}, ArgumentError, "softcap"),
        ("softcap_nan", {"softcap": np.nan}, ArgumentError, "softcap"),
        ("softcap_inf", {"softcap": np.inf}, ArgumentError, "softcap"),
        ("softcap_bool", {"softcap": True}, ArgumentTypeError, "softcap"),
        ("softcap_text", {"softcap": "30"}, ArgumentTypeError, "softcap"),
        ("softcap_beyond_float32", {"softcap": 1e39}, ArgumentError, "softcap"),
        ("softcap_below_float32", {"softcap": 1e-60}, ArgumentError, "softcap"),
        # windows
        ("window_number", {"window": 3, "align": 0}, ArgumentTypeError, "window"),
        ("window_one", {"window": (3,), "align": 0}, ArgumentTypeError, "window"),
        ("window_three", {"window": (1, 2, 3), "align": 0}, ArgumentTypeError, "window"),
        ("window_empty", {"window": (), "align": 0}, ArgumentTypeError, "window"),
        ("window_text", {"window": "11", "align": 0}, ArgumentTypeError, "window"),
        ("window_array", {"window": np.array([1, 2]), "align": 0}, ArgumentTypeError, "window"),
        ("window_negative_left", {"window": (-1, 0), "align": 0}, ArgumentError, "window"),
        ("window_negative_right", {"window": (0, -1), "align": 0}, ArgumentError, "window"),
        ("window_float", {"window": (1.0, 0), "align": 0}, ArgumentError, "window"),
        ("window_bool", {"window": (True, False), "align": 0}, ArgumentError, "window"),
        ("window_nested", {"window": ((1,), 0), "align": 0}, ArgumentError, "window"),
        # alignment
        ("causal_without_align", {"causal": True}, ArgumentError, "align"),
        ("window_without_align", {"window": (1, 1)}, ArgumentError, "align"),
        ("open_window_without_align", {"window": (None, None)}, ArgumentError, "align"),
        ("align_unknown", {"causal": True, "align": "left"}, ArgumentError, "align"),
        ("align_unknown_unused", {"align": "bottom"}, ArgumentError, "align"),
        ("align_float", {"causal": True, "align": 1.5}, ArgumentTypeError, "align"),
        ("align_bool", {"causal": True, "align": True}, ArgumentTypeError, "align"),
        ("align_ragged", {"causal": True, "align": [[1], [1, 2]]}, ArgumentTypeError, "align"),
        ("align_float_unused", {"align": 1.0}, ArgumentTypeError, "align"),
        ("align_huge", {"causal": True, "align": 2**48}, ArgumentError, "align"),
        ("align_hugely_negative", {"causal": True, "align": -(2**60)}, ArgumentError, "align"),
        ("align_beyond_int64", {"causal": True, "align": 2**70}, FastattnError, "align"),
        ("align_uint64", {"causal": True, "align": np.uint64(2**63)}, ArgumentError, "align"),
        # lengths
        ("kv_lengths_beyond", {"kv_lengths": 8}, ArgumentError, "kv_lengths"),
        ("kv_lengths_one_beyond", {"kv_lengths": np.array([7, 8])}, ArgumentError, "kv_lengths"),
        ("kv_lengths_negative", {"kv_lengths": -1}, ArgumentError, "kv_lengths"),
        ("kv_lengths_float", {"kv_lengths": 3.0}, ArgumentTypeError, "kv_lengths"),
        ("kv_lengths_bool", {"kv_lengths": True}, ArgumentTypeError, "kv_lengths"),
        ("kv_lengths_text", {"kv_lengths": "7"}, ArgumentTypeError, "kv_lengths"),
        ("kv_lengths_nan", {"kv_lengths": np.nan}, ArgumentTypeError, "kv_lengths"),
        ("kv_lengths_ragged", {"kv_lengths": [[1], [1, 2]]}, ArgumentTypeError, "kv_lengths"),
        ("kv_lengths_none", {"kv_lengths": [None, 3]}, ArgumentTypeError, "kv_lengths"),
        ("kv_lengths_uint64", {"kv_lengths": np.uint64(2**64 - 1)}, ArgumentError, "kv_lengths"),
        (
            "kv_lengths_masked_array",
            {"kv_lengths": np.ma.array([1, 2], mask=[0, 1])},
            DTypeError,
            "kv_lengths",
        ),
        # results
        ("out_dtype", {"out": np.full((2, 4, 5, 6), 7, np.float64)}, OutputError, "out"),
        ("out_byte_order", {"out": np.full((2, 4, 5, 6), 7, ">f4")}, OutputError, "out"),
        ("out_integers", {"out": np.full((2, 4, 5, 6), 7, np.int32)}, OutputError, "out"),
        ("out_shape", {"out": np.full((2, 4, 5, 8), 7, F32)}, OutputError, "out"),
        ("out_rank", {"out": np.full((1, 2, 4, 5, 6), 7, F32)}, OutputError, "out"),
        ("out_smaller", {"out": np.full((1, 4, 5, 6), 7, F32)}, OutputError, "out"),
        ("out_read_only", lambda call: {"out": _read_only()}, OutputError, "out"),
        ("out_broadcast", {"out": _zeros(2, 4, 5, 6)}, OutputError, "out"),
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

PLANS = [
    Refusal(*row)
    for row in (
        ("impl_unknown", {"impl": "cuda"}, ArgumentError, "impl"),
        ("impl_upper_case", {"impl": "NumPy"}, ArgumentError, "impl"),
        ("impl_empty", {"impl": ""}, ArgumentError, "impl"),
        ("impl_none", {"impl": None}, FastattnError, "impl"),
        ("impl_number", {"impl": 3}, FastattnError, "impl"),
        ("impl_unhashable", {"impl": ["numpy"]}, FastattnError, "impl"),
        ("impl_unhashable_dict", {"impl": {}}, FastattnError, "impl"),
        ("impl_array", {"impl": np.zeros(3)}, FastattnError, "impl"),
        ("config_dict", {"config": {"threads": 2}}, ArgumentTypeError, "config"),
        ("config_text", {"config": "fast"}, ArgumentTypeError, "config"),
        ("config_zero", {"config": 0}, ArgumentTypeError, "config"),
        ("config_false", {"config": False}, ArgumentTypeError, "config"),
        ("config_class", {"config": fastattn.Config}, ArgumentTypeError, "config"),
        ("both_wrong", {"config": {}, "impl": []}, FastattnError, "`"),
    )
]


def _assert_teaches(message: str, argument: str) -> None:
    """It names the argument, what came, what is accepted and how to mend it."""
    assert argument in message
    for word in ("`", "received ", "accepted: ", "Fix: "):
        assert word in message, message


def _refuse(refusal: Refusal, **how: Any) -> None:
    call = {**refusal.arguments(), **how}
    arrays = [call.pop(name) for name in "qkv"]
    out = call["out"]
    kept = out.copy() if isinstance(out, np.ndarray) and out.size < 10_000 else None
    with pytest.raises(refusal.error) as caught:
        fastattn.attention(*arrays, **call)
    assert isinstance(caught.value, FastattnError)
    _assert_teaches(str(caught.value), refusal.argument)
    if kept is not None:
        assert kept.tobytes() == out.tobytes()
    with pytest.raises(refusal.error):
        fastattn.explain(*arrays, **call)


def test_the_good_call_is_good(target: Target) -> None:
    """What the refusals change is accepted as it stands."""
    call = _good()
    arrays = [call.pop(name) for name in "qkv"]
    assert target.attention(*arrays, **call) is call["out"]
    assert not (call["out"] == 7).any()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda row: row.name)
def test_refused(target: Target, refusal: Refusal) -> None:
    """Refused, whichever implementation is asked for."""
    _refuse(refusal, impl=target.impl, config=target.config())


@pytest.mark.parametrize("refusal", PLANS, ids=lambda row: row.name)
def test_plan_refused(refusal: Refusal) -> None:
    """An implementation or configuration that makes no sense."""
    _refuse(refusal)


def test_names_are_unique() -> None:
    """Each row can be named on the command line."""
    names = [row.name for row in (*REFUSALS, *PLANS)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("field", ["block_q", "block_k", "keys_per_split", "threads", "isa"])
def test_field_that_the_implementation_lacks(field: str) -> None:
    """A field is never passed over in silence."""
    value: Any = "baseline" if field == "isa" else 4
    config = fastattn.Config(**{field: value})
    for target in {target.impl: target for target in RUNNABLE}.values():
        from fastattn.implementations import load

        lacks = field not in load(target.impl).TUNABLES
        how = {"impl": target.impl, "config": config}
        if lacks:
            _refuse(Refusal("", {}, ConfigError, f"Config.{field}"), **how)
        else:
            call = _good()
            fastattn.attention(*(call.pop(n) for n in "qkv"), **how)
    if field == "threads":
        with pytest.raises(ConfigError, match="threadpoolctl"):
            fastattn.attention(
                np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)), impl="numpy", config=config
            )


@pytest.mark.parametrize("isa", ["avx1024", "AVX2", "", "neon?"])
def test_unknown_isa(isa: str) -> None:
    """An instruction set nobody knows; with "auto" too, which may fall back on no other."""
    usable = fastattn.implementations()["cython"] is None
    for impl in ("auto", "cython"):
        error = (UnavailableError, ConfigError) if usable or impl == "auto" else UnavailableError
        call = _good()
        arrays = [call.pop(name) for name in "qkv"]
        with pytest.raises(error) as caught:
            fastattn.attention(*arrays, impl=impl, config=fastattn.Config(isa=isa), **call)
        assert isinstance(caught.value, FastattnError)
        _assert_teaches(str(caught.value), "isa" if usable else "")
        assert (call["out"] == 7).all()


def test_isa_that_this_machine_lacks() -> None:
    """Known, not runnable here: the reason is in the message."""
    if fastattn.implementations()["cython"] is not None:
        return
    for isa, why in fastattn.machine().missing_isas.items():
        with pytest.raises(UnavailableError) as caught:
            fastattn.attention(
                *(_good()[n] for n in "qkv"), impl="cython", config=fastattn.Config(isa=isa)
            )
        _assert_teaches(str(caught.value), "isa")
        assert why in str(caught.value)


def test_implementation_that_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name: the reason is in the message, and nothing else is run."""
    from fastattn import _plan
    from fastattn.implementations import load

    module = load("numpy")
    monkeypatch.setattr(module, "missing", lambda: "the abacus is broken")
    _plan._plan.cache_clear()
    try:
        _refuse(Refusal("", {}, UnavailableError, "the abacus is broken"), impl="numpy")
    finally:
        _plan._plan.cache_clear()


@pytest.mark.parametrize(
    "change",
    [
        {"q": _zeros(2**40, 1, 2, 2), "k": _zeros(1, 1, 3, 2), "v": _zeros(1, 1, 3, 2)},
        {"q": _zeros(2**38, 2), "k": _zeros(3, 2), "v": _zeros(3, 2)},
    ],
    ids=["batch", "length"],
)
def test_result_that_does_not_fit_in_memory(target: Target, change: dict[str, Any]) -> None:
    """A legal call that is too large is a MemoryError, not a crash."""
    with pytest.raises(MemoryError):
        target.attention(change["q"], change["k"], change["v"])


@pytest.mark.parametrize(
    "scale", [2, np.float32(0.5), np.int8(1), fractions.Fraction(1, 2), -0.25, 0.0], ids=str
)
def test_kinds_of_numbers_that_are_accepted(scale: Any) -> None:
    """Any real number is a scale."""
    call = _good()
    arrays = [call.pop(name) for name in "qkv"]
    np.testing.assert_array_equal(
        fastattn.attention(*arrays, scale=scale, impl="numpy"),
        fastattn.attention(*arrays, scale=float(scale), impl="numpy"),
    )


def test_unknown_argument_and_missing_array() -> None:
    """A misspelt argument is Python's own TypeError, for `explain` too."""
    call = _good()
    arrays = [call.pop(name) for name in "qkv"]
    for function in (fastattn.attention, fastattn.explain):
        with pytest.raises(TypeError, match="is_causal"):
            function(*arrays, is_causal=True)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            function(*arrays[:2])  # type: ignore[call-overload]


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
