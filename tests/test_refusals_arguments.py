"""Arguments beside the arrays that are refused, as `test_refusals.py` has it, and their kinds.

Flags, numbers, windows, lengths, implementations and configurations.
"""

from __future__ import annotations

import decimal
import fractions
from typing import Any

import numpy as np
import pytest
from refusals import F32, Refusal, assert_teaches, good, refuse
from targets import RUNNABLE, Target

import fastattn
from fastattn import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    DTypeError,
    FastattnError,
    UnavailableError,
)

REFUSALS = [
    Refusal(*row)
    for row in (
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


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda row: row.name)
def test_refused(target: Target, refusal: Refusal) -> None:
    """Refused, whichever implementation is asked for."""
    refuse(refusal, impl=target.impl, config=target.config())


@pytest.mark.parametrize("refusal", PLANS, ids=lambda row: row.name)
def test_plan_refused(refusal: Refusal) -> None:
    """An implementation or configuration that makes no sense."""
    refuse(refusal)


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
            refuse(Refusal("", {}, ConfigError, f"Config.{field}"), **how)
        else:
            call = good()
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
        call = good()
        arrays = [call.pop(name) for name in "qkv"]
        with pytest.raises(error) as caught:
            fastattn.attention(*arrays, impl=impl, config=fastattn.Config(isa=isa), **call)
        assert isinstance(caught.value, FastattnError)
        assert_teaches(str(caught.value), "isa" if usable else "")
        assert (call["out"] == 7).all()


def test_isa_that_this_machine_lacks() -> None:
    """Known, not runnable here: the reason is in the message."""
    if fastattn.implementations()["cython"] is not None:
        return
    for isa, why in fastattn.machine().missing_isas.items():
        with pytest.raises(UnavailableError) as caught:
            fastattn.attention(
                *(good()[n] for n in "qkv"), impl="cython", config=fastattn.Config(isa=isa)
            )
        assert_teaches(str(caught.value), "isa")
        assert why in str(caught.value)


def test_implementation_that_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name: the reason is in the message, and nothing else is run."""
    from fastattn import _plan
    from fastattn.implementations import load

    module = load("numpy")
    monkeypatch.setattr(module, "missing", lambda: "the abacus is broken")
    _plan._plan.cache_clear()
    try:
        refuse(Refusal("", {}, UnavailableError, "the abacus is broken"), impl="numpy")
    finally:
        _plan._plan.cache_clear()


@pytest.mark.parametrize(
    "scale", [2, np.float32(0.5), np.int8(1), fractions.Fraction(1, 2), -0.25, 0.0], ids=str
)
def test_kinds_of_numbers_that_are_accepted(scale: Any) -> None:
    """Any real number is a scale."""
    call = good()
    arrays = [call.pop(name) for name in "qkv"]
    np.testing.assert_array_equal(
        fastattn.attention(*arrays, scale=scale, impl="numpy"),
        fastattn.attention(*arrays, scale=float(scale), impl="numpy"),
    )


def test_unknown_argument_and_missing_array() -> None:
    """A misspelt argument is Python's own TypeError, for `explain` too."""
    call = good()
    arrays = [call.pop(name) for name in "qkv"]
    for function in (fastattn.attention, fastattn.explain):
        with pytest.raises(TypeError, match="is_causal"):
            function(*arrays, is_causal=True)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            function(*arrays[:2])  # type: ignore[call-overload]
