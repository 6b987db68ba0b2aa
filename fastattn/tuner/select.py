"""`decide`: which finalist wins, and how sure that is.

The finalists took turns in the same rounds.  Whatever is said of two of them is said of the
differences of their logarithms within a round, in which the conditions of the round cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.tuner.space import Point

__all__ = ["LEAST_ROUNDS", "Decision", "Standing", "decide", "spread"]

# If nothing differed, a point would be ahead in all of 7 rounds with a probability of 1 %: fewer
# rounds prove nothing.
LEAST_ROUNDS = 7
_LEVEL = 0.95
_RESAMPLES = 1000
# Finalists that the rounds cannot tell apart are tied, unless they are further apart than the
# second number; those closer than the first are always tied: a win by less is a win by luck.
_TIE = (math.log(1.01), math.log(1.02))
# What a process fixes at its start shifts calls this short by this much: a point that wins by less
# in one process may lose in the next, however many rounds agree.
_SHORT_SECONDS = 50e-6
_TIE_OF_SHORT = (math.log(1.05), math.log(1.05))


@dataclass(frozen=True, slots=True)
class Standing:
    """A finalist's time over the control's.

    Attributes
    ----------
    ratio : float
        Median over the rounds.
    interval : (float, float) or None
        95 % interval, jointly with all other comparisons of the final; None if there were too
        few rounds.
    """

    ratio: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The winner of a final.

    Attributes
    ----------
    winner : Point
    reason : str
        Why it and no other.
    tie_band : float
        Largest relative difference at which a finalist was tied with the fastest.
    tied : tuple of Point
        The points tied with the fastest, including itself.
    standings : tuple of Standing
        Standing of each finalist, in the order given.
    selection_bound : float or None
        95 % upper bound of the winner's time over the best finalist's, less 1: it holds
        although the winner was chosen by the same rounds.
    """

    winner: Point
    reason: str
    tie_band: float
    tied: tuple[Point, ...]
    standings: tuple[Standing, ...]
    selection_bound: float | None


def decide(
    points: Sequence[Point],
    logs: NDArray[np.float64],
    preference: Callable[[Point], Any],
    rng: np.random.Generator,
) -> Decision:
    """Choose among finalists.

    The fastest wins unless others are tied with it; then the first point wins, if it is among
    them, else the one that is preferred.  A point other than the first wins only if it is faster
    than the first by more than the tie band and by more than the rounds leave open, and only
    after at least `LEAST_ROUNDS` rounds.

    Parameters
    ----------
    points : sequence of Point
        The control first.
    logs : ndarray, (rounds, points)
        Logarithms of the seconds.
    preference : callable
        Sort key; the least is preferred.
    rng : Generator
        Draws the bootstrap samples.
    """
    medians, margins = _compare(logs, rng)
    rounds = len(logs)
    if rounds < LEAST_ROUNDS:
        reason = f"{rounds} rounds are too few to tell another from the default"
        standings = tuple(Standing(math.exp(ratio), None) for ratio in medians[:, 0])
        return Decision(points[0], reason, 0.0, (points[0],), standings, None)
    best = int(np.argmin(medians[:, 0]))
    short = math.exp(np.median(logs[:, 0])) < _SHORT_SECONDS
    bands = np.clip(margins[best], *(_TIE_OF_SHORT if short else _TIE))
    tied = [at for at in range(len(points)) if medians[at, best] <= bands[at]]
    band = max(float(bands[at]) for at in tied)
    ahead = [at for at in tied if medians[at, 0] < -bands[0] and medians[at, 0] < -margins[at, 0]]
    winner, reason = 0, "the default is the fastest"
    if best != 0 and 0 in tied:
        reason = f"the default is within {_percent(band)} of the fastest"
    elif best != 0 and not ahead:
        reason = "no other is faster than the default beyond doubt"
    elif best != 0:
        winner = min(ahead, key=lambda at: preference(points[at]))
        reason = "the fastest"
        if len(ahead) > 1:
            reason = f"{len(ahead)} within {_percent(band)}: fewest threads, then smallest blocks"
    bound = float((medians[winner] + margins[winner]).max())
    return Decision(
        winner=points[winner],
        reason=reason,
        tie_band=math.expm1(band),
        tied=tuple(points[at] for at in tied),
        standings=tuple(
            Standing(math.exp(ratio), (math.exp(ratio - margin), math.exp(ratio + margin)))
            for ratio, margin in zip(medians[:, 0], margins[:, 0], strict=True)
        ),
        selection_bound=math.expm1(max(0.0, bound)),
    )


def _compare(
    logs: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median differences of all pairs, and their simultaneous margins; (points, points) each.

    Rounds are resampled.  A pair's margin is a multiple of the standard deviation of its
    resampled medians, the same multiple for all pairs: the 95 % point of the largest deviation
    among them.  (Simultaneous intervals of maximum type, as in Romano and Wolf, "Exact and
    Approximate Stepdown Methods for Multiple Hypothesis Testing", 2005.)
    """
    rounds, count = logs.shape
    first, second = np.triu_indices(count, 1)
    differences = logs[:, first] - logs[:, second]
    medians, margins = np.zeros((2, count, count))
    middle = np.median(differences, axis=0)
    drawn = differences[rng.integers(0, rounds, (_RESAMPLES, rounds))]
    drawn.sort(axis=1)  # NumPy sorts several times faster than it takes medians
    deviations = (drawn[:, (rounds - 1) // 2] + drawn[:, rounds // 2]) / 2 - middle
    scales = deviations.std(axis=0)
    moving = scales > 0
    largest = (np.abs(deviations[:, moving]) / scales[moving]).max(axis=1, initial=0.0)
    margin = np.quantile(largest, _LEVEL) * scales
    medians[first, second], medians[second, first] = middle, -middle
    margins[first, second] = margins[second, first] = margin
    return medians, margins


def spread(logs: NDArray[np.float64]) -> float:
    """Relative spread of samples given as logarithms; outliers do not move it.

    The interquartile range, scaled to be the standard deviation of a normal distribution.
    """
    low, high = np.quantile(logs, (0.25, 0.75))
    return float(math.expm1((high - low) / 1.349))


def _percent(log_ratio: float) -> str:
    return f"{100 * math.expm1(log_ratio):.2g} %"
