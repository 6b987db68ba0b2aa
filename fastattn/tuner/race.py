"""`Race`: points are measured in interleaved repetitions beside a baseline; losers are dropped.

In each repetition every point left gives one sample, and so does the baseline, in random order:
slow changes of the machine meet all alike and cancel in the ratios within a repetition.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastattn.tuner.measure import Source, TrialError
from fastattn.tuner.record import Outcome
from fastattn.tuner.space import Point

if TYPE_CHECKING:
    from fastattn.tuner.strategies import Trial

__all__ = ["Race"]

# (samples, factor): after this many samples, a point that takes more than this factor times the
# best's time is dropped.
_DROPS = ((1, 2.0), (3, 1.2))


class Race:
    """A race in progress; its outcomes so far can be read at any time.

    If the baseline is among the trials, it is measured no more often for that; its ratios are 1.
    `rng` draws the order within a repetition.  Where losers are dropped, points are compared with
    `incumbent` too, the best score of earlier races; the baseline's is 0.  `on_sample` is called
    with the point after each sample.

    `repetitions` has the seconds of a call by point, for each repetition; the baseline is in all.
    """

    def __init__(
        self,
        source: Source,
        trials: Sequence[Trial],
        baseline: Point,
        rng: np.random.Generator,
        *,
        incumbent: float = 0.0,
        drop: bool = True,
        on_sample: Callable[[Point], None] | None = None,
    ) -> None:
        self.repetitions: list[dict[Point, float]] = []
        self._source, self._baseline, self._rng = source, baseline, rng
        self._wanted = {trial.point: trial.samples for trial in trials}
        self._best = min(incumbent, 0.0)
        self._drop, self._on_sample = drop, on_sample
        self._ratios: dict[Point, list[float]] = {point: [] for point in self._wanted}
        self._dropped: set[Point] = set()
        self._failures: dict[Point, str] = {}

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Measure until every point has its samples or `stop`, called before each sample, holds."""
        while (left := self._left()) and not stop():
            self._repeat(left, stop)

    @property
    def completed(self) -> bool:
        """Whether every point has its samples, was dropped, or failed."""
        return not self._left()

    def outcomes(self) -> dict[Point, Outcome]:
        """Outcomes by point; points without a sample are left out."""
        found = {}
        for point, ratios in self._ratios.items():
            if point == self._baseline:
                found[point] = Outcome((0.0,) * max(1, len(self.repetitions)), False, None)
            elif ratios or point in self._failures:
                failure = self._failures.get(point)
                found[point] = Outcome(tuple(ratios), point in self._dropped, failure)
        return found

    def _left(self) -> list[Point]:
        return [
            point
            for point, samples in self._wanted.items()
            if point != self._baseline
            and point not in self._dropped
            and point not in self._failures
            and len(self._ratios[point]) < samples
        ]

    def _repeat(self, points: list[Point], stop: Callable[[], bool]) -> None:
        self._source.start_repetition()
        points = [*points, self._baseline]
        seconds: dict[Point, float] = {}
        for index in self._rng.permutation(len(points)):
            if stop():
                break
            point = points[index]
            try:
                seconds[point] = self._sample(point)
            except TrialError as error:
                if point == self._baseline:
                    raise
                self._failures[point] = str(error)
        if not seconds:
            return
        if self._baseline not in seconds:  # the other samples are useless without it
            seconds[self._baseline] = self._sample(self._baseline)
        self.repetitions.append(seconds)
        for point in seconds.keys() - {self._baseline}:
            self._ratios[point].append(math.log(seconds[point] / seconds[self._baseline]))
        if self._drop:
            self._drop_losers()

    def _sample(self, point: Point) -> float:
        seconds = self._source.sample(point)
        if self._on_sample is not None:
            self._on_sample(point)
        return seconds

    def _drop_losers(self) -> None:
        medians = {
            point: statistics.median(ratios) for point, ratios in self._ratios.items() if ratios
        }
        best = min([self._best, *medians.values()])
        for point in self._left():
            samples, median = len(self._ratios[point]), medians.get(point, best)
            if any(samples >= least and median > best + math.log(most) for least, most in _DROPS):
                self._dropped.add(point)
