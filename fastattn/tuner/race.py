"""`Race`: points take turns, block by block, against a control; losers are left behind.

In each round every point that is left takes one block, and so does the control, in random order:
slow changes of the machine meet all alike and cancel in the ratios of a round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastattn.tuner.measure import Source, TrialError
from fastattn.tuner.space import Point

if TYPE_CHECKING:
    from fastattn.tuner.strategies import Trial

__all__ = ["Outcome", "Race", "race"]

# (blocks, factor): after this many blocks, a point that takes more than this factor times the
# best's time is dropped.
_DROPS = ((1, 2.0), (3, 1.2))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a race told about one point.

    Attributes
    ----------
    log_ratios : tuple of float
        log(time / control's time), for each round that the point took part in.
    dropped : bool
        Whether it was left behind before it had all its blocks.
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


class Race:
    """A race under way; its outcomes so far can be read at any time.

    Parameters
    ----------
    source : Source
    trials : sequence of Trial
        If the control is among them, it is measured no more often than as the control; its
        ratios are 1.
    control : Point
    rng : Generator
        Draws the order of turns.
    incumbent : float, default 0
        Best score of earlier races: points that cannot come near it are dropped.  The control's
        is 0.
    drop : bool, default True
        Whether losers are dropped.
    on_block : callable, optional
        Called with the point after each block.

    Attributes
    ----------
    rounds : list of dict
        Seconds of a call by point, for each round; the control is in every round.
    """

    def __init__(
        self,
        source: Source,
        trials: Sequence[Trial],
        control: Point,
        rng: np.random.Generator,
        *,
        incumbent: float = 0.0,
        drop: bool = True,
        on_block: Callable[[Point], None] | None = None,
    ) -> None:
        self.rounds: list[dict[Point, float]] = []
        self._source, self._control, self._rng = source, control, rng
        self._wanted = {trial.point: trial.blocks for trial in trials}
        self._best = min(incumbent, 0.0)
        self._drop, self._on_block = drop, on_block
        self._ratios: dict[Point, list[float]] = {point: [] for point in self._wanted}
        self._dropped: set[Point] = set()
        self._failures: dict[Point, str] = {}

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Go on until every point has had its blocks or `stop`, asked before each block, holds."""
        while (left := self._left()) and not stop():
            self._round(left, stop)

    @property
    def completed(self) -> bool:
        """Whether every point has had its blocks, was dropped, or failed."""
        return not self._left()

    def outcomes(self) -> dict[Point, Outcome]:
        """Outcomes by point; a point of which no block was taken is left out."""
        found = {}
        for point, ratios in self._ratios.items():
            if point == self._control:
                found[point] = Outcome((0.0,) * max(1, len(self.rounds)), False, None)
            elif ratios or point in self._failures:
                failure = self._failures.get(point)
                found[point] = Outcome(tuple(ratios), point in self._dropped, failure)
        return found

    def _left(self) -> list[Point]:
        return [
            point
            for point, blocks in self._wanted.items()
            if point != self._control
            and point not in self._dropped
            and point not in self._failures
            and len(self._ratios[point]) < blocks
        ]

    def _round(self, points: list[Point], stop: Callable[[], bool]) -> None:
        self._source.start_round()
        turns = [*points, self._control]
        seconds: dict[Point, float] = {}
        for place in self._rng.permutation(len(turns)):
            if stop():
                break
            try:
                seconds[turns[place]] = self._block(turns[place])
            except TrialError as error:
                if turns[place] == self._control:
                    raise
                self._failures[turns[place]] = str(error)
        if not seconds:
            return
        if self._control not in seconds:  # without the control the others are worth nothing
            seconds[self._control] = self._block(self._control)
        self.rounds.append(seconds)
        for point in seconds.keys() - {self._control}:
            ratio = math.log(seconds[point] / seconds[self._control])
            self._ratios[point].append(ratio)
        if self._drop:
            self._drop_losers()

    def _block(self, point: Point) -> float:
        seconds = self._source.block(point)
        if self._on_block is not None:
            self._on_block(point)
        return seconds

    def _drop_losers(self) -> None:
        medians = {
            point: statistics.median(ratios) for point, ratios in self._ratios.items() if ratios
        }
        best = min([self._best, *medians.values()])
        for point in self._left():
            blocks, median = len(self._ratios[point]), medians.get(point, best)
            if any(blocks >= least and median > best + math.log(most) for least, most in _DROPS):
                self._dropped.add(point)


def race(
    source: Source,
    trials: Sequence[Trial],
    control: Point,
    rng: np.random.Generator,
    on_block: Callable[[Point], None] | None = None,
    incumbent: float = 0.0,
) -> dict[Point, Outcome]:
    """Run a race to its end; see `Race`."""
    running = Race(source, trials, control, rng, incumbent=incumbent, on_block=on_block)
    running.run()
    return running.outcomes()
