"""Hard numbers: huge and tiny scores, ties, rows that see nothing.

Scores are built to be exact in every order of summation (one-hot queries, whole numbers,
powers of two), so the bounds need no allowance for their rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from targets import Target, blocks, dtypes

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def _from_scores(scores: np.ndarray, dtype: np.dtype, dim_v: int = 6) -> Arrays:
    """q, k and v whose scores at scale 1 are `scores` (Lq, Lk) as `dtype` rounds them."""
    k = np.ascontiguousarray(scores.T).astype(dtype)
    v = _rng().standard_normal((scores.shape[1], dim_v)).astype(dtype)
    return np.eye(scores.shape[0]).astype(dtype), k, v


def _check_exact_scores(
    target: Target, arrays: Arrays, tunables: dict[str, int], **arguments: Any
) -> tuple[np.ndarray, np.ndarray]:
    got = target.both(*arrays, tunables=tunables, **arguments)
    oracle.assert_agrees(got, *arrays, strict=True, **arguments)
    assert np.isfinite(got[0].astype(np.float64)).all()
    return got


def _check_value(target: Target, out: np.ndarray, v: np.ndarray) -> None:
    """What a single weight gives: its value, exactly; float32 on tiles: within 2 ULP."""
    if target.tiles and v.dtype == np.float32:
        np.testing.assert_array_max_ulp(out, v, 2)
    else:
        np.testing.assert_array_equal(out, v)


def _largest(dtype: np.dtype) -> float:
    """About the largest score the compute type holds."""
    return 1.7e308 if dtype == np.float64 else 3e38


@dtypes
@blocks
@pytest.mark.parametrize("shift", [-8192.0, -96.0, 1.0, 96.0, 8192.0])
def test_shift_invariance(
    target: Target, dtype: np.dtype, tunables: dict[str, int], shift: float
) -> None:
    """A number added to all scores moves the log-sum-exp by it, and the result not at all."""
    arrays = _from_scores(_rng().integers(-8, 9, (6, 30)).astype(float), dtype)
    mask = np.full((6, 30), shift, dtype)
    plain, lse = target.both(*arrays, scale=1.0, tunables=tunables)
    got, got_lse = _check_exact_scores(target, arrays, tunables, mask=mask, scale=1.0)
    eps = oracle.EPSILON[dtype.name]
    oracle.assert_close(got.astype(float), plain.astype(float), 8 * eps, "shifted")
    eps = oracle.EPSILON[np.dtype(oracle.COMPUTE[dtype.name]).name]
    bound = np.full(lse.shape, eps * (4 + abs(shift)))
    if target.tiles:  # a rounding of either log-sum-exp
        bound += np.spacing(np.maximum(np.abs(got_lse), np.abs(lse)))
    oracle.assert_close(got_lse, lse + lse.dtype.type(shift), bound, "lse")


@dtypes
@blocks
@pytest.mark.parametrize("level", [-10240, 10240])
def test_scores_of_ten_thousand(
    target: Target, dtype: np.dtype, tunables: dict[str, int], level: int
) -> None:
    """Whole-number steps on top of +-1e4 keep their weights."""
    rng = _rng()
    k = np.stack([np.full(40, level / 80), rng.integers(-6, 7, 40)], axis=1).astype(dtype)
    v = rng.standard_normal((40, 5)).astype(dtype)
    q = np.array([[80, 1], [80, -1], [80, 2]], dtype)
    _check_exact_scores(target, (q, k, v), tunables, scale=1.0)


@dtypes
@blocks
def test_scores_from_minus_to_plus_ten_thousand(
    target: Target, dtype: np.dtype, tunables: dict[str, int]
) -> None:
    """Gaps that overflow every exponential, in both directions."""
    scores = _rng().integers(-128, 129, (7, 50)).astype(float)
    scores[0], scores[1] = np.sort(scores[0]), np.sort(scores[1])[::-1]
    _check_exact_scores(target, _from_scores(scores, dtype), tunables, scale=80.0)


@dtypes
@blocks
@pytest.mark.parametrize(
    "pattern", [(1,), (-1,), (1, -1), (-1, 1), (0, 1, -1), (-1, 0.5), (-1, -1, -1, -0.5)], ids=str
)
def test_largest_scores(
    target: Target, dtype: np.dtype, tunables: dict[str, int], pattern: tuple[float, ...]
) -> None:
    """Scores of +-3e38: the mean of the values at the largest one, and no NaN."""
    half = dtype == np.float16  # does not hold 3e38: reach it with the scale
    unit, scale = (2.0**15, 2.0**97) if half else (_largest(dtype), 1.0)
    scores = np.tile(np.resize(np.array(pattern), 40), (4, 1))
    q = np.full((4, 1), unit if half else 1.0).astype(dtype)
    k = (scores[0][:, None] * unit).astype(dtype)
    v = _rng().standard_normal((40, 3)).astype(dtype)
    out, lse = target.both(q, k, v, scale=scale, tunables=tunables)
    top = scores[0] == scores[0].max()
    mean = np.broadcast_to(v[top].astype(float).mean(axis=0), (4, 3))
    oracle.assert_close(out.astype(float), mean, 4 * oracle.EPSILON[dtype.name], "out")
    expected = float(k.astype(np.float64).max()) * float(q[0, 0]) * scale
    np.testing.assert_allclose(lse.astype(float), expected, rtol=1e-6, atol=20)


@dtypes
@blocks
@pytest.mark.parametrize("constant", [0.0, 1.0, -64.0])
def test_constant_rows(
    target: Target, dtype: np.dtype, tunables: dict[str, int], constant: float
) -> None:
    """Equal scores give the mean of the values, for prime key counts too."""
    for length_k in (1, 2, 3, 7, 8, 31, 97, 257):
        arrays = _from_scores(np.full((3, length_k), constant), dtype)
        out, lse = _check_exact_scores(target, arrays, tunables, scale=1.0)
        exact = constant + np.log(length_k)
        eps = oracle.EPSILON[lse.dtype.name]
        if target.tiles:
            oracle.assert_close(lse.astype(float), exact + 0 * lse, eps * (2 + abs(exact)), "lse")
        else:
            np.testing.assert_allclose(lse, exact, rtol=1e-6)
        if target.tiled:
            np.testing.assert_array_equal(out, np.broadcast_to(out[:1], out.shape))


@dtypes
@blocks
def test_one_dominant_key(target: Target, dtype: np.dtype, tunables: dict[str, int]) -> None:
    """A key far above the others gives its own value, wherever it stands."""
    gap = 1024.0
    length_k = 37
    arrays = _from_scores(np.eye(length_k) * gap, dtype)
    out, lse = target.both(*arrays, scale=1.0, tunables=tunables)
    _check_value(target, out, arrays[2])
    np.testing.assert_array_equal(lse, np.full(length_k, gap))


@dtypes
@blocks
def test_repeated_maxima(target: Target, dtype: np.dtype, tunables: dict[str, int]) -> None:
    """The same maximum in one block, in several, in all."""
    scores = _rng().integers(-4, 3, (9, 45)).astype(float)
    scores[0, :3] = scores[1, [0, 9, 44]] = scores[2, ::7] = scores[3, -2:] = 3
    scores[4, ::2] = 3
    _check_exact_scores(target, _from_scores(scores, dtype), tunables, scale=1.0)


@dtypes
@pytest.mark.parametrize("rise", [0.01, 0.25, 1.0, 5.5, 5.6, 7.9, 8.1, 11.0, 88.0, 104.0, 1000.0])
@pytest.mark.parametrize("direction", [1, -1], ids=["rising", "falling"])
def test_maximum_moves_in_every_block(
    target: Target, dtype: np.dtype, rise: float, direction: int
) -> None:
    """The running maximum changes at every block of keys, slowly or by orders."""
    levels = np.repeat(np.arange(12), 7) * rise
    scores = np.stack([levels, levels + np.tile([0, -1, -3, -2, 0, -9, -1], 12)])[:, ::direction]
    _check_exact_scores(
        target, _from_scores(scores, dtype), {"block_k": 7, "block_q": 4}, scale=1.0
    )


@dtypes
@blocks
def test_maximum_rises_at_every_key(
    target: Target, dtype: np.dtype, tunables: dict[str, int]
) -> None:
    """A long ramp, slow enough that every key keeps some weight."""
    scores = np.arange(256.0)[None] * np.array([[1 / 64], [1 / 8], [-1 / 64], [1.0]])
    _check_exact_scores(target, _from_scores(scores, dtype), tunables, scale=1.0)


@dtypes
@blocks
def test_denormal_weights(target: Target, dtype: np.dtype, tunables: dict[str, int]) -> None:
    """Gaps at which exponentials become denormal, then zero: small weights, not garbage."""
    edges = (-80, -110) if dtype != np.float64 else (-700, -760)
    gaps = np.linspace(*edges, 64).astype(dtype).astype(float)
    scores = np.zeros((64, 24))
    scores[:, 1:] = gaps[:, None]
    arrays = _from_scores(scores, dtype)
    arrays[2][1:] = 1e4  # would show any weight that is not small
    arrays[2][0] = 0
    out, _ = target.both(*arrays, scale=1.0, tunables=tunables)
    weight = np.exp(gaps.astype(np.longdouble))[:, None] * 23
    smallest = float(np.finfo(oracle.COMPUTE[dtype.name]).tiny)
    result = 2.0**-24 if dtype == np.float16 else 0.0  # its own denormals
    exact = (1e4 * weight / (1 + weight)).astype(float)
    assert (out.astype(float) >= 0).all()
    # Denormal weights may be flushed to zero, and no more than that.
    allowed = result + 23 * 1e4 * smallest + exact * 4 * oracle.EPSILON[dtype.name]
    assert (np.abs(out.astype(float) - exact) <= allowed).all()


@dtypes
@blocks
@pytest.mark.parametrize("sinks", [None, -200.0, -3.0, 100.0, 1e4, -np.inf])
def test_rows_that_see_nothing(
    target: Target, dtype: np.dtype, tunables: dict[str, int], sinks: float | None
) -> None:
    """Zeros and lse = -inf, whatever hides the keys, also beside rows that see some."""
    rng = _rng()
    q, k, v = rng.standard_normal((3, 2, 11, 8)).astype(dtype)
    shown = np.ones((11, 11), bool)
    shown[[0, 4, 10]] = False
    added = np.where(shown, 0, -np.inf).astype(dtype)
    logits = None if sinks is None else np.full(2, sinks, dtype)
    for arguments, empty in (
        ({"mask": shown}, [0, 4, 10]),
        ({"mask": added}, [0, 4, 10]),
        ({"causal": True, "align": -3}, [0, 1, 2]),
        ({"window": (2, 0), "align": 6}, [7, 8, 9, 10]),
        ({"window": (None, 0), "align": -10}, list(range(10))),
        ({"kv_lengths": 0}, list(range(11))),
        ({"causal": True, "align": "bottom_right", "kv_lengths": 4}, list(range(7))),
        ({"mask": shown & (np.arange(11) > 5), "causal": True}, [0, 1, 2, 3, 4, 5, 10]),
    ):
        out, lse = target.both(q, k, v, sinks=logits, tunables=tunables, **arguments)
        assert not out[:, empty].any(), arguments
        assert (lse[:, empty] == -np.inf).all(), arguments
        rest = np.setdiff1d(np.arange(11), empty)
        assert np.isfinite(lse[:, rest]).all(), arguments
        oracle.assert_agrees((out, lse), q, k, v, sinks=logits, **arguments)


@dtypes
@blocks
def test_scores_of_minus_infinity(
    target: Target, dtype: np.dtype, tunables: dict[str, int]
) -> None:
    """A score that is -inf by itself has weight zero; a row of them is a row of zeros."""
    k = _rng().standard_normal((20, 1))
    k[[0, 3, 9, 10, 11, 12, 13, 14, 15, 16, 19]] = -np.inf
    v = _rng().standard_normal((20, 4)).astype(dtype)
    q = np.ones((3, 1), dtype)
    out, lse = _check_exact_scores(target, (q, k.astype(dtype), v), tunables, scale=1.0)
    assert np.isfinite(lse).all()
    out, lse = target.both(q, np.full((20, 1), -np.inf, dtype), v, scale=1.0, tunables=tunables)
    assert not out.any()
    assert (lse == -np.inf).all()


@dtypes
@blocks
@pytest.mark.parametrize("own", [True, False], ids=["own_dtype", "float32"])
def test_smallest_number_is_no_mask(
    target: Target, dtype: np.dtype, tunables: dict[str, int], own: bool
) -> None:
    """A mask of finfo.min everywhere swallows the scores and gives the mean of the values."""
    kind = dtype if own else np.dtype(np.float32)
    lowest = {"float16": -65504.0, "bfloat16": -3.3895313892515355e38}.get(kind.name)
    lowest = float(np.finfo(kind).min) if lowest is None else lowest
    if kind == np.float64 or (dtype != np.float64 and kind != np.float16):
        q, k = _rng().standard_normal((2, 19, 5)).astype(dtype)
    else:  # such a mask is not large enough beside the compute type to swallow anything
        q, k = np.zeros((2, 19, 5), dtype)
    v = _rng().standard_normal((19, 5)).astype(dtype)
    mask = np.full((19, 19), lowest, kind)
    mask[3, ::2] = 0  # beside a true zero it is a weight of zero
    out, lse = target.both(q, k, v, mask=mask, tunables=tunables)
    mean = np.broadcast_to(v.astype(float).mean(axis=0), (19, 5)).copy()
    plain = oracle.definition(q[3:4], k[::2], v[::2], working=np.float64)
    mean[3] = plain.out[0]
    oracle.assert_close(out.astype(float), mean, 8 * oracle.EPSILON[dtype.name], "out")
    rest = np.arange(19) != 3
    np.testing.assert_allclose(lse[rest].astype(float), lowest, rtol=1e-6, atol=4)


@dtypes
def test_one_key_gives_its_value(target: Target, dtype: np.dtype) -> None:
    """With one key the result is its value, the largest number included."""
    q = _rng().standard_normal((3, 10, 16)).astype(dtype)
    v = _rng().standard_normal((3, 1, 33)).astype(dtype)
    largest = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38}
    v[0, 0, 0] = largest.get(dtype.name) or np.finfo(dtype).max
    v[0, 0, 1] = -v[0, 0, 0]
    out, lse = target.both(q, q[:, :1], v)
    _check_value(target, out, np.broadcast_to(v, out.shape))
    assert np.isfinite(lse).all()


@dtypes
def test_sixty_four_thousand_equal_weights(target: Target, dtype: np.dtype) -> None:
    """Long sums of equal weights stay as exact as the plain computation's."""
    kind, length_k = dtype, 65_536
    q, k = np.zeros((2, 4), kind), np.zeros((length_k, 4), kind)
    v = _rng().random((length_k, 64)).astype(kind)
    out, lse = _check_exact_scores(target, (q, k, v), {})
    np.testing.assert_allclose(lse, np.log(length_k), rtol=1e-6)
    assert abs(float(out[0, 0]) - 0.5) < 0.01


@dtypes
@pytest.mark.parametrize("length_k", [500, 1021, 4096])
def test_long_sums_of_one_sign(target: Target, dtype: np.dtype, length_k: int) -> None:
    """Values of one sign make the sum grow: it is taken in parts, as a matrix product's is."""
    rng = _rng()
    q, k = (rng.standard_normal((n, 16)).astype(dtype) for n in (8, length_k))
    v = rng.random((length_k, 32)).astype(dtype)
    oracle.assert_agrees(target.both(q, k, v), q, k, v)


@dtypes
@pytest.mark.parametrize(
    ("dim", "dim_v"),
    [(1, 1), (1, 300), (3, 1), (7, 17), (64, 63), (129, 255), (257, 513), (1025, 1025)],
)
def test_dims(target: Target, dtype: np.dtype, dim: int, dim_v: int) -> None:
    """D and Dv of 1, odd, around panel widths, and far beyond."""
    rng = _rng()
    q, k = (rng.standard_normal((2, n, dim)).astype(dtype) for n in (13, 29))
    v = rng.standard_normal((2, 29, dim_v)).astype(dtype)
    got = target.both(q, k, v, causal=True, align="bottom_right")
    oracle.assert_agrees(got, q, k, v, causal=True, align="bottom_right")


@dtypes
@pytest.mark.parametrize("softcap", [1e-3, 0.5, 30.0, 1e30])
def test_softcap(target: Target, dtype: np.dtype, softcap: float) -> None:
    """Small and large caps, scores far beyond the cap, and a score of exactly 0."""
    scores = np.array([[0.0, 1, -1, 64, -64, 2**14, -(2**14), 0.25, 3, -0.125]])
    arrays = _from_scores(scores, dtype)
    got = target.both(*arrays, scale=1.0, softcap=softcap)
    oracle.assert_agrees(got, *arrays, scale=1.0, softcap=softcap)
    tiny = 1e-40 if dtype != np.float64 else 1e-310
    out = target.attention(*arrays, scale=1.0, softcap=tiny)  # bends every score to about 0
    mean = arrays[2].astype(float).mean(axis=0, keepdims=True)
    oracle.assert_close(out.astype(float), mean, 4 * oracle.EPSILON[dtype.name], "out")


@dtypes
def test_infinite_score_under_a_softcap_is_finite(target: Target, dtype: np.dtype) -> None:
    """tanh bends infinity to the cap: the row is a plain one."""
    k = np.array([[np.inf], [-np.inf], [0.0], [1.0]]).astype(dtype)
    v = _rng().standard_normal((4, 3)).astype(dtype)
    q = np.ones((2, 1), dtype)
    got = target.both(q, k, v, scale=1.0, softcap=4.0)
    assert np.isfinite(got[0].astype(float)).all()
    oracle.assert_agrees(got, q, k, v, strict=True, scale=1.0, softcap=4.0)


@dtypes
@pytest.mark.parametrize("sink", [np.nan, np.inf, -np.inf, 0.0])
def test_a_row_that_sees_nothing_is_zero_beside_any_sink(
    target: Target, dtype: np.dtype, sink: float
) -> None:
    q, k, v = _rng().standard_normal((3, 1, 5, 4)).astype(dtype)
    mask = np.ones((5, 5), bool)
    mask[1:3] = False
    kind = dtype if dtype == np.float64 else np.float32
    out, lse = target.both(q, k, v, mask=mask, sinks=np.full(1, sink, kind))
    assert not out[:, 1:3].any()
    assert (lse[:, 1:3] == -np.inf).all()
    assert np.isnan(out[:, 0].astype(float)).all() == (not sink < np.inf)


@dtypes
def test_sinks_take_part_in_the_denominator_only(target: Target, dtype: np.dtype) -> None:
    """A sink of the logit of n equal keys takes half the weight; -inf is no sink."""
    q, k = np.zeros((3, 4, 2), dtype), np.zeros((3, 16, 2), dtype)
    v = np.ones((3, 16, 2), dtype)
    kind = dtype if dtype == np.float64 else np.float32
    sinks = np.array([np.log(16), -np.inf, 1e4], kind)
    out, lse = target.both(q, k, v, sinks=sinks)
    np.testing.assert_allclose(out[0].astype(float), 0.5, rtol=2 * oracle.EPSILON[dtype.name])
    np.testing.assert_array_equal(out[1].astype(float), 1.0)
    assert not out[2].any()
    np.testing.assert_allclose(lse, np.log(16), rtol=1e-6)
