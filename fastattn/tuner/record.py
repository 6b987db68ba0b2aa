"""What a search leaves behind: every measurement, and what was concluded from them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from fastattn.tuner.select import Decision, Standing
from fastattn.tuner.space import Point, Value

__all__ = ["Evaluation", "Search"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of one point before the final.

    Attributes
    ----------
    point : Point
    values : dict
        The point's value of each gene.
    batch : int
        Batch in which it was first asked for.
    log_ratios : tuple of float
        log(time / control's time), block by block.
    dropped : bool
        Whether it was left behind in its last race.
    failure : str or None
        Why it could not be measured.
    """

    point: Point
    values: dict[str, Value]
    batch: int
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
class Search:
    """A search that has ended.

    Attributes
    ----------
    control, winner : Point
        The default, and what won, which is the control if there was no final.
    evaluations : tuple of Evaluation
        In the order in which points were first measured.
    finalists : tuple of Point
        The control first; empty if there was no final.
    final_seconds : tuple of tuple of float
        Seconds of a call, for each round of the final and each finalist.
    decision : Decision or None
        None if there was no final.
    seen, valid : int
        Points that were measured, and points that the space has.
    drift : float or None
        Relative difference in the control's time between thirds of the final, beyond what chance
        makes of it; between thirds of the whole search if the final was short.
    pair_variation : float or None
        Relative spread of the ratios between finalists within a round.
    variation : float or None
        Coefficient of variation of the winner's blocks in the final.
    cut_short, interrupted : bool
        Whether time ran out before the strategy was done, and whether Ctrl-C ended the search.
    troubles : tuple of str
        Why the winner is not to be remembered; empty if it may be.
    optimiser_seconds, kernel_seconds, seconds : float
        Time spent in the strategy and the decision, in calls, and in all.
    strategy : dict
        The strategy's own record.
    """

    control: Point
    winner: Point
    evaluations: tuple[Evaluation, ...]
    finalists: tuple[Point, ...]
    final_seconds: tuple[tuple[float, ...], ...]
    decision: Decision | None
    seen: int
    valid: int
    drift: float | None
    pair_variation: float | None
    variation: float | None
    cut_short: bool
    interrupted: bool
    troubles: tuple[str, ...]
    optimiser_seconds: float
    kernel_seconds: float
    seconds: float
    strategy: dict[str, Any]

    def standing(self, point: Point) -> Standing | None:
        """A finalist's time over the control's; None for other points."""
        if self.decision is None or point not in self.finalists:
            return None
        return self.decision.standings[self.finalists.index(point)]

    def final_samples(self, point: Point) -> tuple[float, ...]:
        """Seconds of a finalist's blocks, round by round; empty for other points."""
        if point not in self.finalists:
            return ()
        column = self.finalists.index(point)
        return tuple(row[column] for row in self.final_seconds)

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        decision = None
        if self.decision is not None:
            decision = asdict(self.decision)
            del decision["winner"]
        return {
            "control": list(self.control),
            "winner": list(self.winner),
            "evaluations": [
                {
                    "point": list(one.point),
                    "values": one.values,
                    "batch": one.batch,
                    "log_ratios": list(one.log_ratios),
                    "dropped": one.dropped,
                    "failure": one.failure,
                }
                for one in self.evaluations
            ],
            "finalists": [list(point) for point in self.finalists],
            "final_seconds": [list(row) for row in self.final_seconds],
            "decision": decision,
            "seen": self.seen,
            "valid": self.valid,
            "drift": self.drift,
            "pair_variation": self.pair_variation,
            "variation": self.variation,
            "cut_short": self.cut_short,
            "interrupted": self.interrupted,
            "troubles": list(self.troubles),
            "optimiser_seconds": self.optimiser_seconds,
            "kernel_seconds": self.kernel_seconds,
            "seconds": self.seconds,
            "strategy": self.strategy,
        }
