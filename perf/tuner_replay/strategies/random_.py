"""Points at random, without repetition: what any strategy has to beat."""

from __future__ import annotations

from fastattn.tuner.space import Point
from fastattn.tuner.strategies import BaseStrategy

__all__ = ["Random"]


class Random(BaseStrategy):
    """Any order is as likely as any other; `start` is not used."""

    NAME = "random"
    SUMMARY = "points at random, none twice"

    def _propose(self, count: int) -> list[Point]:
        return self.draw(min(count, 6))
