"""Products of pairs of bfloat16 numbers: their exact model, the numbers that they are not for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import DTYPES, Call, calls
from targets import TARGETS, THOROUGH, Target
from test_amx import assert_same_bits, error_statistics, run_check

import fastattn
from fastattn._machine import binding

NAMES = ("avx512_bf16", "avx512_bf16_model")
ISAS = fastattn.machine().isas
PAIRS = [target.parameter() for target in TARGETS if target.isa in NAMES]
on_hardware = pytest.mark.skipif("avx512_bf16" not in ISAS, reason="no AVX512_BF16")


@on_hardware
@pytest.mark.slow
def test_the_model_is_exact(tmp_path: Path) -> None:
    """Instruction and model give the same bits, for numbers of seven kinds."""
    count = 1_000_000 if THOROUGH else 100_000
    said = run_check("pairs_check.cpp", "avx512_bf16", count, tmp_path)
    assert f"0 differences in {count} vectors" in said


@on_hardware
@pytest.mark.skipif(NAMES[1] not in ISAS, reason="no model: build as make test does")
@given(call=calls(dtypes=("bfloat16",)))
def test_calls_of_the_model_give_the_same_bits(call: Call) -> None:
    """The kernels over the model compute what they compute over the instruction."""
    assert_same_bits(call, NAMES)


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("where", ["query", "key"])
@pytest.mark.parametrize("number", [2.0**60, 2.0**127, np.inf, np.nan])
def test_numbers_out_of_range_are_left_to_multiply_add(
    pairs: Target, where: str, number: float
) -> None:
    """Rows that see such a number have the bits of the other kernels, and other rows their own."""
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((3, 2, 150, 65)).astype(DTYPES["bfloat16"])
    other = "avx2" if pairs.isa == NAMES[1] else "avx512"

    def attention(isa: str | None) -> Any:
        config = fastattn.Config(isa=isa, block_q=150, block_k=64)
        return fastattn.attention(
            q, k, v, causal=True, softcap=20.0, impl="cython", config=config
        ).astype(np.float32)

    pairs.require(q.dtype)
    before = attention(pairs.isa)
    (q if where == "query" else k)[1, 100, 64] = number
    sees = np.zeros((2, 150), bool)
    sees[1, 100 : 101 if where == "query" else None] = True
    after = attention(pairs.isa)
    np.testing.assert_array_equal(after[~sees], before[~sees])
    np.testing.assert_array_equal(after[sees], attention(other)[sees])
    assert (before != attention(other)).any()  # the two can be told apart


@pytest.mark.parametrize("pairs", PAIRS)
def test_errors_of_many_shapes(pairs: Target) -> None:
    """Those of exact results rounded once."""
    figures = error_statistics(pairs, "bfloat16", 1_500 if THOROUGH else 20)
    assert figures["rms"] <= 1.05, figures


@on_hardware
def test_explain_tells_which_kernels_serve() -> None:
    """Many rows of bfloat16, where the processor is good at it; nowhere without being named."""
    good = binding().preferred(binding().ISAS.index("avx512_bf16"))
    x = np.zeros((3, 1, 96, 64), DTYPES["bfloat16"])
    few = fastattn.explain(x[0, :, :1], *x[1:], impl="cython")
    assert few.config.isa == "avx512"
    slow = "avx512_bf16 would be slower on this processor"
    assert ("avx512_bf16 is for larger calls" if good else slow) in few.reasons["isa"]
    if "amx" not in ISAS:
        many = fastattn.explain(*x, impl="cython")
        assert many.config.isa == ("avx512_bf16" if good else "avx512")
    assert (ISAS.index("avx512_bf16") < ISAS.index("baseline")) == good
    config = fastattn.Config(isa="avx512_bf16")
    assert fastattn.explain(*x, impl="cython", config=config).config.isa == "avx512_bf16"
