"""The C++ kernels, instruction set by instruction set, through the public call.

Attention is made to compute one thing at a time: with one key the weight is 1 and the
result the value itself; with two keys whose scores are 0 and x, and values 0 and 1, the
result is exp(x) / (1 + exp(x)).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from targets import TARGETS, Target

import fastattn

ISAS = [target.parameter() for target in TARGETS if target.impl == "cython"]
FLOATS = [np.float32, np.float64]
HALVES = [np.float16, ml_dtypes.bfloat16]
every_isa = pytest.mark.parametrize("isa", ISAS)


def run(isa: Target, q: np.ndarray, k: np.ndarray, v: np.ndarray, **arguments: object):
    """Call of one instruction set."""
    isa.require(q.dtype)
    blocks = arguments.pop("blocks", {})
    config = fastattn.Config(isa=isa.isa, threads=1, **blocks)  # type: ignore[arg-type]
    return fastattn.attention(q, k, v, impl="cython", config=config, **arguments)  # type: ignore[call-overload]


def logistic_of(isa: Target, x: np.ndarray) -> np.ndarray:
    """exp(x) / (1 + exp(x)) for each x, as the kernel computes it."""
    q = x[:, None]
    k = np.array([[0], [1]], x.dtype)
    return run(isa, q, k, k, scale=1.0)[:, 0]


@every_isa
@pytest.mark.parametrize("dtype", FLOATS)
def test_exponential_over_its_whole_range(isa: Target, dtype: type) -> None:
    """At most 2 ULP, and 1 for the division that follows, down to where it is flushed to 0.

    Tiles take powers of two: the exponent's rounding moves them by up to half as many ULP as its
    size, and that of log2(e) by a ninth.
    """
    info = np.finfo(dtype)
    lowest = np.log(2.0) * (info.minexp + 1)
    x = np.unique(
        np.concatenate(
            [np.linspace(lowest, 0, 200_001), -np.logspace(-9, 0, 5_001), np.array([0.0])]
        ).astype(dtype)
    )
    exact = np.exp(x.astype(np.longdouble))
    exact = exact / (1 + exact)
    error = np.abs(logistic_of(isa, x) - exact) / (exact * info.eps)
    excess = error - (3 + np.abs(x) * (5 / 8) if isa.tiles else 3)
    assert excess.max() <= 0, (x[np.argmax(excess)], error[np.argmax(excess)])


@every_isa
@pytest.mark.parametrize("dtype", FLOATS)
def test_exponential_is_zero_below_its_range(isa: Target, dtype: type) -> None:
    """No subnormal weight, and of tiles at most a tiny one; and NaN stays NaN."""
    info = np.finfo(dtype)
    lowest = np.log(2.0) * (info.minexp - 1)
    x = np.array([lowest, 2 * lowest, -1e30, -info.max], dtype)
    weight = logistic_of(isa, x)
    assert ((weight >= 0) & (weight <= (info.tiny if isa.tiles else 0))).all()
    assert logistic_of(isa, np.array([0], dtype))[0] == 0.5
    assert np.isnan(logistic_of(isa, np.array([np.nan], dtype))).all()


@every_isa
@pytest.mark.parametrize("dtype", FLOATS)
def test_tanh_of_the_softcap(isa: Target, dtype: type) -> None:
    """Relative accuracy for small and large arguments, by the log-sum-exp of one key."""
    x = np.concatenate([-np.logspace(-6, 3, 4_001), np.logspace(-6, 3, 4_001)]).astype(dtype)
    one = np.ones((1, 1), dtype)
    _, lse = run(isa, x[:, None], one, one, scale=1.0, softcap=1.0, return_lse=True)
    exact = np.tanh(x.astype(np.longdouble))
    eps = np.finfo(dtype).eps
    floor = 2 * eps if isa.tiles else 0  # of the two terms of the log-sum-exp
    assert (np.abs(lse - exact) <= 4 * eps * np.abs(exact) + floor).all()
    extremes = np.array([[np.inf], [-np.inf], [0]], dtype)
    _, lse = run(isa, extremes, one, one, scale=1.0, softcap=1.0, return_lse=True)
    assert np.abs(lse - [1, -1, 0]).max() <= floor


@every_isa
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("step", [1, 2], ids=["adjacent", "strided"])
def test_every_16_bit_number_passes_unchanged(isa: Target, dtype: type, step: int) -> None:
    """All 65,536 bit patterns, as values of a single key; -0 may become 0."""
    patterns = np.arange(65_536, dtype=np.uint16)
    v = np.zeros((1, step * patterns.size), dtype)[:, ::step]
    v[0] = patterns.view(dtype)
    zero = np.zeros((1, 1), dtype)
    out = run(isa, zero, zero, v)[0]
    number = ~np.isnan(v[0].astype(np.float32))
    same = out.view(np.uint16) == patterns
    assert (same | ~number | (patterns == 0x8000)).all()
    assert np.isnan(out.astype(np.float32)[~number]).all()


@every_isa
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [1, 40])
def test_16_bit_results_round_to_nearest_even(isa: Target, dtype: type, rows: int) -> None:
    """Halves of sums of two: ties and subnormals, and numbers that tiles compute with."""
    patterns = np.arange(0, 65_536, 7, dtype=np.uint16)
    numbers = patterns.view(dtype)
    sizes = np.abs(numbers.astype(np.float32))
    within = sizes <= float(ml_dtypes.finfo(np.float32).max) / 4
    if rows > 1:
        within &= (sizes > 2**-12) & (sizes < 2**12)
    numbers = numbers[within]
    other = np.roll(numbers, 1)
    zero = np.zeros((2, 1), dtype)
    out = run(isa, zero[[0] * rows], zero, np.stack([numbers, other]))[-1]
    mean = (numbers.astype(np.float64) + other.astype(np.float64)) / 2
    with np.errstate(over="ignore"):
        expected = mean.astype(np.float32).astype(dtype)
    assert (out.view(np.uint16) == expected.view(np.uint16)).all()


@every_isa
@pytest.mark.parametrize("dtype", [*FLOATS, *HALVES])
def test_every_tail(isa: Target, dtype: type) -> None:
    """Each remainder of a vector, of a register tile, of a block and of a chunk of features."""
    rng = np.random.default_rng(3)
    epsilon = float(ml_dtypes.finfo(dtype).eps)
    sizes = [(n, n, 1 + n % 13, 1 + n % 19) for n in range(1, 70)]
    sizes += [(5, 9, d, d + 1) for d in (127, 128, 129, 255, 256, 257, 300, 513)]
    for length_q, length_k, dim, dim_v in sizes:
        q, k, v = (
            rng.standard_normal(shape).astype(dtype)
            for shape in ((length_q, dim), (length_k, dim), (length_k, dim_v))
        )
        blocks = {"block_q": 1 + length_q // 2, "block_k": 1 + length_k // 3}
        out = run(isa, q, k, v, blocks=blocks).astype(np.float64)
        wide = [x.astype(np.float64) for x in (q, k, v)]
        expected = fastattn.attention(*wide, impl="numpy")
        assert np.abs(out - expected).max() <= 40 * epsilon, (length_q, length_k, dim, dim_v)


@every_isa
@pytest.mark.parametrize("stride", [64, 200, 512, 1024])
def test_distant_rows_of_keys(isa: Target, stride: int) -> None:
    """Keys whose rows lie far apart are copied where near ones are read in place: same bits."""
    rng = np.random.default_rng(4)
    q, k, v = rng.standard_normal((3, 150, 64)).astype(np.float32)
    buffer = np.zeros((150, stride), np.float32)
    buffer[:, :64] = k
    assert (run(isa, q, buffer[:, :64], v) == run(isa, q, k, v)).all()


@every_isa
@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("dim", [256, 1000])
def test_scores_are_summed_in_runs(isa: Target, rows: int, dim: int) -> None:
    """Roundings of runs of 64 products, not of all: as much less as sqrt(64) is than sqrt(dim).

    Of one key, the log-sum-exp is the score.
    """
    rng = np.random.default_rng(2)
    q = rng.standard_normal((600 // rows, 1, rows, dim), np.float32)
    k = rng.standard_normal((600 // rows, 1, 1, dim), np.float32)
    v = np.ones((600 // rows, 1, 1, 4), np.float32)
    exact = np.einsum("bhid,bhjd->bhi", q.astype(float), k.astype(float))
    _, lse = run(isa, q, k, v, scale=1.0, return_lse=True)
    one_by_one = np.zeros_like(lse)
    for d in range(dim):
        one_by_one += q[..., d] * k[..., d]
    got, plain = (float(np.square(x - exact).mean()) ** 0.5 for x in (lse, one_by_one))
    assert got < 1.3 * (64 / dim) ** 0.5 * plain
