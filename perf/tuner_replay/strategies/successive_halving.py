"""Successive halving on repetitions: few samples for many points, more for the better half."""

from __future__ import annotations

from collections.abc import Sequence

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies import BaseStrategy, Trial

__all__ = ["SuccessiveHalving"]


class SuccessiveHalving(BaseStrategy):
    """One sample for each of many points, two for the better half of them, and so on.

    It spends as many samples in all as other strategies: `budget` times `samples`.  It starts with
    as many points as still give the last ones left at least `samples` samples.
    """

    NAME = "successive-halving"
    SUMMARY = "one sample for many points, then twice as many for the better half, ..."

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
    ) -> None:
        super().__init__(space, budget, seed, start, samples)
        self._samples_left = budget * samples
        self._each, self._rung = 1, 0
        self._rungs: dict[Point, int] = {}  # the last rung that a point took part in

    def ask(self) -> list[Trial]:
        if not self._rungs:
            rungs = self.samples.bit_length()
            count = min(len(self.space), max(1, self._samples_left // rungs))
            points = self.start[:count]
            points += self.draw(count - len(points), points)
        else:
            self._each *= 2
            points = self.ranked()[: len(self._last()) // 2]
            points = points[: self._samples_left // self._each]
            if len(points) < 1 or len(self._last()) < 2:
                return []
        self._rung += 1
        self.proposed += [point for point in points if point not in self.seen]
        self.seen.update(points)
        self._rungs |= dict.fromkeys(points, self._rung)
        self._samples_left -= self._each * len(points)
        return [Trial(point, self._each) for point in points]

    def ranked(self) -> list[Point]:
        """Points that came further are better; among equals the score of the last race counts."""
        return sorted(super().ranked(), key=lambda point: -self._rungs[point])

    def _last(self) -> list[Point]:
        """Points of the last race that have a score."""
        return [p for p, rung in self._rungs.items() if rung == self._rung and p in self.scores]
