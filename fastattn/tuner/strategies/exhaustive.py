"""Every point, while the budget lasts."""

from __future__ import annotations

from fastattn.tuner.space import Point
from fastattn.tuner.strategies._base import BaseStrategy

__all__ = ["Exhaustive"]


class Exhaustive(BaseStrategy):
    """One batch: `start`, then the rest of the space in its order."""

    NAME = "exhaustive"
    SUMMARY = "every configuration, in the order of the space"

    def _propose(self, count: int) -> list[Point]:
        return self.unseen([*self.start, *self.space.points])[:count]
