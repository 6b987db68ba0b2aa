"""`Strategy`, the interface of a search, and `BaseStrategy`, which all of ours extend."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from fastattn.tuner.space import Point, Space

__all__ = ["BaseStrategy", "Strategy", "Trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A point, and how many samples are to be taken of it in this race."""

    point: Point
    samples: int


class Strategy(Protocol):
    """Decides what is measured next."""

    def ask(self) -> list[Trial]:
        """Next batch, whose points are raced together; an empty one ends the search."""

    def tell(self, point: Point, score: float | None) -> None:
        """Report the median of log(time / baseline's time); None if the point failed.

        Called for each point of a batch before the next `ask`.
        """


class BaseStrategy:
    """Everything but the choice of points, `_propose`; no point is proposed twice.

    The same seed and the same scores give the same search.

    Parameters
    ----------
    space : Space
    budget : int
        Number of evaluations, each `samples` samples of one point.  Never exceeded.
    seed : int
    start : sequence of Point
        The default, then winners remembered from other problems; may be empty.
    samples : int
        Samples of one evaluation.
    """

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
    ) -> None:
        self.space, self.budget, self.samples = space, budget, samples
        self.start = [point for point in dict.fromkeys(start) if point in space]
        self.random = random.Random(seed)
        self.proposed: list[Point] = []
        self.seen: set[Point] = set()
        self.scores: dict[Point, float] = {}

    def ask(self) -> list[Trial]:
        left = min(self.budget, len(self.space)) - len(self.proposed)
        if left < 1:
            return []
        points = self._propose(left)
        assert not self.seen & set(points)
        self.proposed += points
        self.seen.update(points)
        return [Trial(point, self.samples) for point in points]

    def tell(self, point: Point, score: float | None) -> None:
        assert point in self.seen
        if score is None or not math.isfinite(score):
            self.scores.pop(point, None)
        else:
            self.scores[point] = score

    def ranked(self) -> list[Point]:
        """Points with a score, best first; equal ones in the order of proposal."""
        scored = [point for point in self.proposed if point in self.scores]
        return sorted(scored, key=self.scores.__getitem__)

    def unseen(self, points: Iterable[Point]) -> list[Point]:
        """Those of `points` that were not proposed yet, each once."""
        return [point for point in dict.fromkeys(points) if point not in self.seen]

    def draw(self, count: int, besides: Iterable[Point] = ()) -> list[Point]:
        """`count` random points that were not proposed yet; fewer if there are no more."""
        taken = self.seen.union(besides)
        pool = [point for point in self.space.points if point not in taken]
        return self.random.sample(pool, min(count, len(pool)))

    def tournament(self, ranked: Sequence[Point]) -> Point:
        """The better of two points drawn at random."""
        return ranked[min(self.random.randrange(len(ranked)) for _ in range(2))]

    def _propose(self, count: int) -> list[Point]:
        """From 1 to `count` distinct points, none proposed before."""
        raise NotImplementedError
