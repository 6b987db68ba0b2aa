"""The decision of a final: winners, ties, bounds that hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastattn.tuner.select import MIN_REPETITIONS, Decision, decide, spread

POINTS = ((0,), (1,), (2,), (3,), (4,))
ROUNDS = 15


def _logs(ratios: list[float], noise: float, seed: int = 0, rounds: int = ROUNDS) -> np.ndarray:
    """Logarithms of times of such ratios to the first, in rounds that are fast and slow."""
    rng = np.random.default_rng(seed)
    rounds_ = 0.2 * rng.standard_normal((rounds, 1))
    return rounds_ + np.log(ratios) + noise * rng.standard_normal((rounds, len(ratios)))


def _decide(logs: np.ndarray, seed: int = 0, reverse: bool = False) -> Decision:
    points = POINTS[: logs.shape[1]]
    prefer = (lambda point: -point[0]) if reverse else (lambda point: point)
    return decide(points, logs, prefer, np.random.default_rng(seed))


def test_the_fastest_wins() -> None:
    """Where nothing is near it."""
    made = _decide(_logs([1, 0.8, 0.9, 1.1], 0.01))
    assert made.winner == (1,)
    assert made.reason == "the fastest"
    assert made.tied == ((1,),)
    assert made.standings[0].ratio == 1
    assert made.standings[1].ratio == pytest.approx(0.8, rel=0.02)
    low, high = made.standings[1].interval or (0, 0)
    assert 0.77 < low < made.standings[1].ratio < high < 0.83
    assert 0 <= made.selection_bound < 0.02


@pytest.mark.parametrize("ratio", [0.995, 1.0, 1.005])
def test_ties_go_to_the_default(ratio: float) -> None:
    """Below one per cent, however precisely it is known."""
    made = _decide(_logs([1, ratio, 1.2], 0.0005))
    assert made.winner == (0,)
    assert "default" in made.reason
    assert made.tie_band == pytest.approx(0.01)


def test_two_per_cent_are_no_tie() -> None:
    """Where they are known well."""
    assert _decide(_logs([1, 0.975], 0.001)).winner == (1,)
    assert _decide(_logs([1, 0.985], 0.001)).winner == (1,)


@pytest.mark.parametrize(("seconds", "ratio", "winner"), [
    (40e-6, 0.96, (0,)),
    (40e-6, 0.94, (1,)),
    (60e-6, 0.96, (1,)),
])  # fmt: skip
def test_short_calls_differ_from_process_to_process(
    seconds: float, ratio: float, winner: tuple[int]
) -> None:
    """Four per cent that all rounds of this one agree on are no lead."""
    assert _decide(_logs([1, ratio], 0.001) + np.log(seconds)).winner == winner


@pytest.mark.parametrize(("half_width", "winner"), [(0.001, (1,)), (0.1, (0,))])
def test_noise_widens_the_tie(half_width: float, winner: tuple[int]) -> None:
    """1.5 % ahead wins where the rounds agree on it, and not where they could not tell."""
    logs = np.zeros((ROUNDS, 2))
    logs[:, 1] = np.linspace(-0.015 - half_width, -0.015 + half_width, ROUNDS)
    made = _decide(logs)
    assert made.winner == winner
    assert made.tie_band == pytest.approx(0.02 if winner == (0,) else 0.01)
    assert "default is within 2 %" in made.reason or winner == (1,)


def test_no_other_beyond_doubt() -> None:
    """A median far ahead that rests on wild rounds does not win."""
    logs = np.zeros((ROUNDS, 2))
    logs[:8, 1], logs[8:, 1] = -0.1, 0.3
    made = _decide(logs)
    assert made.standings[1].ratio < 0.95
    assert made.winner == (0,)
    assert made.reason == "no other is significantly faster than the default"


def test_ties_of_others_go_to_the_preferred() -> None:
    """Whoever is preferred of those tied with the fastest."""
    logs = _logs([1, 0.8, 0.802, 0.9], 0.001)
    assert _decide(logs).winner == (1,)
    made = _decide(logs, reverse=True)
    assert made.winner == (2,)
    assert made.tied == ((1,), (2,))
    assert "2 within" in made.reason
    assert made.selection_bound >= 0.001


def test_few_rounds_prove_nothing() -> None:
    """Then the default stays, and there are no intervals."""
    made = _decide(_logs([1, 0.5], 0.001, rounds=MIN_REPETITIONS - 1))
    assert made.winner == (0,)
    assert made.selection_bound is None
    assert made.standings[1].interval is None
    assert made.standings[1].ratio == pytest.approx(0.5, rel=0.01)
    assert "too few" in made.reason
    assert _decide(_logs([1, 0.5], 0.001, rounds=MIN_REPETITIONS)).winner == (1,)


def test_alone() -> None:
    """One finalist wins."""
    made = _decide(np.zeros((ROUNDS, 1)))
    assert made.winner == (0,)
    assert made.selection_bound == 0


def test_nothing_differs() -> None:
    """Equal points keep the default in 95 % of 200 finals, and do not tell of a speed-up."""
    kept = sum(_decide(_logs([1] * 5, 0.03, seed), seed).winner == (0,) for seed in range(200))
    assert kept >= 190


@pytest.mark.parametrize("noise", [0.01, 0.05])
@pytest.mark.parametrize("ratios", [[1, 0.97, 0.975, 0.98, 1.1], [1, 1, 1, 1, 1]])
def test_the_bound_holds(ratios: list[float], noise: float) -> None:
    """The winner's true time is within the bound, and the ratios in their intervals, in 95 %."""
    runs, held, inside = 200, 0, 0
    for seed in range(runs):
        made = _decide(_logs(ratios, noise, seed), seed)
        truth = ratios[made.winner[0]] / min(ratios) - 1
        held += truth <= made.selection_bound + 1e-12
        intervals = [standing.interval for standing in made.standings]
        inside += all(
            low <= ratio * (1 + 1e-12) and ratio <= high * (1 + 1e-12)
            for ratio, (low, high) in zip(ratios, intervals, strict=True)
        )
    assert held >= 0.95 * runs
    assert inside >= 0.93 * runs  # of the bootstrap with 15 rounds: 95 % within its own error


def test_the_bound_is_worth_something() -> None:
    """A tenth of the noise, about a tenth of the bound."""
    wide, narrow = (
        np.mean([_decide(_logs([1, 0.8, 0.8], n, seed)).selection_bound for seed in range(20)])
        for n in (0.1, 0.01)
    )
    assert 0.005 < narrow < 0.02
    assert 5 * narrow < wide


def test_the_same_seed_decides_the_same() -> None:
    """All of it."""
    logs = _logs([1, 0.97, 0.975], 0.02)
    assert _decide(logs, 7) == _decide(logs, 7)


def test_spread() -> None:
    """Of a normal sample it is the standard deviation; outliers do not move it."""
    logs = 0.03 * np.random.default_rng(0).standard_normal(10_000)
    assert spread(logs) == pytest.approx(0.03, rel=0.05)
    logs[:1000] += 5
    assert spread(logs) < 0.06
    assert math.isfinite(spread(np.zeros(3)))
