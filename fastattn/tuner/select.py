"""`decide`: which finalist wins, and how certain that is.

The finalists were measured in the same repetitions.  Every statement about two of them is about
the differences of their logarithms within a repetition, in which its conditions cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.tuner.space import Point

__all__ = ["MIN_REPETITIONS", "Decision", "Standing", "decide", "spread"]

# If nothing differed, a point would be ahead in all of 7 repetitions with a probability of 1 %.
MIN_REPETITIONS = 7
_LEVEL = 0.95
_RESAMPLES = 1000
# Tie band: the simultaneous margin, clipped to [1 %, 2 %].
_TIE = (math.log(1.01), math.log(1.02))
# Calls as short as this differ by several per cent from process to process, so that a lead of
# less may be lost in the next process.
_SHORT_SECONDS = 50e-6
_TIE_OF_SHORT = (math.log(1.05), math.log(1.05))


@dataclass(frozen=True, slots=True)
class Standing:
    """A finalist's time over the baseline's.

    Attributes
    ----------
    ratio : float
        Median over the repetitions.
    interval : (float, float) or None
        95 % interval, jointly with all other comparisons of the final; None if there were too
        few repetitions.
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
        Why it was chosen.
    tie_band : float
        Largest relative difference at which a finalist was tied with the fastest.
    tied : tuple of Point
        The points tied with the fastest, including itself.
    standings : tuple of Standing
        Standing of each finalist, in the order given.
    selection_bound : float or None
        95 % upper bound of the winner's time over the best finalist's, less 1.  It holds
        although the winner was chosen by the same repetitions.
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

    The fastest wins unless others are tied with it; then the baseline wins, if it is among
    them, else the one that is preferred.  A point other than the baseline wins only if it is
    faster than the baseline by more than the tie band and by more than the margin, and only
    after at least `MIN_REPETITIONS` repetitions.

    The baseline is the first of `points`; `logs` are the logarithms of the seconds, of shape
    (repetitions, points); `preference` is a sort key, of which the least is preferred; `rng` draws
    the bootstrap samples.
    """
    medians, margins = _compare(logs, rng)
    if len(logs) < MIN_REPETITIONS:
        reason = f"{len(logs)} repetitions are too few to replace the default"
        standings = tuple(Standing(math.exp(ratio), None) for ratio in medians[:, 0])
        return Decision(points[0], reason, 0.0, (points[0],), standings, None)
    best = int(np.argmin(medians[:, 0]))
    short = math.exp(np.median(logs[:, 0])) < _SHORT_SECONDS
    bands = np.clip(margins[best], *(_TIE_OF_SHORT if short else _TIE))
    tied = [i for i in range(len(points)) if medians[i, best] <= bands[i]]
    band = max(float(bands[i]) for i in tied)
    leaders = [i for i in tied if medians[i, 0] < -bands[0] and medians[i, 0] < -margins[i, 0]]
    winner, reason = 0, "the default is the fastest"
    if best != 0 and 0 in tied:
        reason = f"the default is within {_percent(band)} of the fastest"
    elif best != 0 and not leaders:
        reason = "no other is significantly faster than the default"
    elif best != 0:
        winner = min(leaders, key=lambda i: preference(points[i]))
        reason = "the fastest"
        if len(leaders) > 1:
            reason = f"{len(leaders)} within {_percent(band)}: fewest threads, then smallest blocks"
    bound = float((medians[winner] + margins[winner]).max())
    return Decision(
        winner=points[winner],
        reason=reason,
        tie_band=math.expm1(band),
        tied=tuple(points[i] for i in tied),
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

    Repetitions are resampled.  A pair's margin is a multiple of the standard deviation of its
    resampled medians, the same multiple for all pairs: the 95 % point of the largest deviation
    among them.  (Simultaneous intervals of maximum type, as in Romano and Wolf, "Exact and
    Approximate Stepdown Methods for Multiple Hypothesis Testing", 2005.)
    """
    repetitions, count = logs.shape
    first, second = np.triu_indices(count, 1)
    differences = logs[:, first] - logs[:, second]
    medians, margins = np.zeros((2, count, count))
    middle = np.median(differences, axis=0)
    drawn = differences[rng.integers(0, repetitions, (_RESAMPLES, repetitions))]
    drawn.sort(axis=1)  # NumPy sorts several times faster than it takes medians
    deviations = (drawn[:, (repetitions - 1) // 2] + drawn[:, repetitions // 2]) / 2 - middle
    scales = deviations.std(axis=0)
    varying = scales > 0
    largest = (np.abs(deviations[:, varying]) / scales[varying]).max(axis=1, initial=0.0)
    margin = np.quantile(largest, _LEVEL) * scales
    medians[first, second], medians[second, first] = middle, -middle
    margins[first, second] = margins[second, first] = margin
    return medians, margins


def spread(logs: NDArray[np.float64]) -> float:
    """Relative spread of samples given as logarithms, robust against outliers.

    The interquartile range, scaled to be the standard deviation of a normal distribution.
    """
    low, high = np.quantile(logs, (0.25, 0.75))
    return float(math.expm1((high - low) / 1.349))


def _percent(log_ratio: float) -> str:
    return f"{100 * math.expm1(log_ratio):.2g} %"
