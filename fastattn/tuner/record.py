"""Records of a search: the outcome of each point, and what was concluded."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fastattn.tuner.select import Decision, Standing
from fastattn.tuner.space import Point, Value

__all__ = ["Evaluation", "Outcome", "Search"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Measurements of one point.

    Attributes
    ----------
    log_ratios : tuple of float
        log(time / baseline's time), for each repetition that the point took part in.
    dropped : bool
        Whether it was dropped before it had all its samples.
    failure : str or None
        Why it could not be measured.
    """

    log_ratios: tuple[float, ...]
    dropped: bool
    failure: str | None

    @property
    def score(self) -> float | None:
        """Median of `log_ratios`; None for a point that failed."""
        if self.failure is not None or not self.log_ratios:
            return None
        return statistics.median(self.log_ratios)


@dataclass(frozen=True, slots=True)
class Evaluation(Outcome):
    """Measurements of one point in all races before the final.

    Attributes
    ----------
    point : Point
    values : dict
        The point's value of each gene.
    batch : int
        Batch in which the strategy first proposed it.
    """

    point: Point
    values: dict[str, Value]
    batch: int


@dataclass(frozen=True, slots=True)
class Search:
    """A search that has ended.

    Attributes
    ----------
    baseline, winner : Point
        The default, and the point that won: the baseline if there was no final.
    evaluations : tuple of Evaluation
        In the order in which points were first measured.
    finalists : tuple of Point
        The baseline first; empty if there was no final.
    final_seconds : tuple of tuple of float
        Seconds of a call, for each repetition of the final and each finalist.
    decision : Decision or None
        None if there was no final.
    points : int
        Points of the space.
    drift : float or None
        Relative difference in the baseline's time between thirds of the final, beyond chance;
        between thirds of the whole search if the final was short.
    variation : float or None
        Coefficient of variation of the winner's samples in the final.
    cut_short, interrupted : bool
        Whether time ran out before the strategy was done, and whether Ctrl-C ended the search.
    warnings : tuple of str
        Why the winner is not to be remembered; empty if it may be.
    optimiser_seconds, kernel_seconds, seconds : float
        Time spent in the strategy and the decision, in calls, and in all.
    """

    baseline: Point
    winner: Point
    evaluations: tuple[Evaluation, ...]
    finalists: tuple[Point, ...]
    final_seconds: tuple[tuple[float, ...], ...]
    decision: Decision | None
    points: int
    drift: float | None
    variation: float | None
    cut_short: bool
    interrupted: bool
    warnings: tuple[str, ...]
    optimiser_seconds: float
    kernel_seconds: float
    seconds: float

    def standing(self, point: Point) -> Standing | None:
        """A finalist's time over the baseline's; None for other points."""
        if self.decision is None or point not in self.finalists:
            return None
        return self.decision.standings[self.finalists.index(point)]

    def final_samples(self, point: Point) -> tuple[float, ...]:
        """Seconds of a finalist's samples; empty for other points."""
        if point not in self.finalists:
            return ()
        column = self.finalists.index(point)
        return tuple(row[column] for row in self.final_seconds)
