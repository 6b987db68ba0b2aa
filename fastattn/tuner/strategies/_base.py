"""What strategies share: the books of what was asked and told."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from fastattn._errors import ArgumentError, format_error
from fastattn.tuner.space import Point, Space

__all__ = ["Books", "Strategy", "Trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A point, and how many blocks are to be measured for it in this race."""

    point: Point
    blocks: int


class Strategy(Protocol):
    """Decides what is measured next.

    `ask` gives the next batch, whose points are raced together; the score of each is told
    (`tell`) before the next batch is asked for.  An empty batch ends the search.  The same seed
    and the same scores give the same search.

    Parameters
    ----------
    space : Space
    budget : int
        Number of evaluations, each `blocks` blocks of one point.  Never exceeded.
    seed : int
    start : sequence of Point
        The default, then winners remembered from other problems; may be empty.
    blocks : int
        Blocks of one evaluation.
    """

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), blocks: int = 5
    ) -> None: ...

    def ask(self) -> list[Trial]:
        """Next batch; empty when done."""

    def tell(self, point: Point, score: float | None) -> None:
        """Median of log(time / control's time); None where the point cannot be measured."""

    def best(self) -> Point | None:
        """Point with the lowest score."""

    def state(self) -> dict[str, Any]:
        """Where the search stands, for the record: JSON-able."""


class Books:
    """All of a strategy but its choice of points, `_propose`; no point is proposed twice."""

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), blocks: int = 5
    ) -> None:
        for name, number in (("budget", budget), ("blocks", blocks)):
            if number < 1:
                raise ArgumentError(
                    format_error(name, repr(number), "a whole number from 1 up", "ask for more")
                )
        self.space, self.budget, self.blocks = space, budget, blocks
        self.start = [point for point in dict.fromkeys(start) if point in space]
        self.random = random.Random(seed)
        self.asked: list[Point] = []
        self.seen: set[Point] = set()
        self.scores: dict[Point, float] = {}
        self.failed: set[Point] = set()
        self.batches = 0

    def _better(self, ranked: Sequence[Point]) -> Point:
        """The better of two points drawn at random: a tournament."""
        return ranked[min(self.random.randrange(len(ranked)) for _ in range(2))]

    @property
    def left(self) -> int:
        """Points that may still be asked for."""
        return min(self.budget, len(self.space)) - len(self.asked)

    def ask(self) -> list[Trial]:
        if self.left < 1:
            return []
        points = self._propose(self.left)
        assert not self.seen & set(points)
        self.asked += points
        self.seen.update(points)
        self.batches += 1
        return [Trial(point, self.blocks) for point in points]

    def tell(self, point: Point, score: float | None) -> None:
        if point not in self.seen:
            raise ArgumentError(
                format_error(
                    "point", repr(point), "a point that was asked for", "tell what ask() gave"
                )
            )
        if score is None or not math.isfinite(score):
            self.failed.add(point)
            self.scores.pop(point, None)
        else:
            self.failed.discard(point)
            self.scores[point] = score

    def best(self) -> Point | None:
        return next(iter(self.ranked()), None)

    def state(self) -> dict[str, Any]:
        return {
            "strategy": self.NAME,
            "batches": self.batches,
            "asked": [list(point) for point in self.asked],
            "scores": [self.scores.get(point) for point in self.asked],
        }

    def ranked(self) -> list[Point]:
        """Points with a score, best first; equal ones in the order in which they were asked for."""
        told = [point for point in self.asked if point in self.scores]
        return sorted(told, key=self.scores.__getitem__)

    def fresh(self, points: Iterable[Point]) -> list[Point]:
        """Those of `points` that were not asked for yet, each once."""
        return [point for point in dict.fromkeys(points) if point not in self.seen]

    def drawn(self, count: int, besides: Iterable[Point] = ()) -> list[Point]:
        """`count` random points that were not asked for yet; fewer if there are no more."""
        taken = self.seen.union(besides)
        pool = [point for point in self.space.points if point not in taken]
        return self.random.sample(pool, min(count, len(pool)))

    def _propose(self, count: int) -> list[Point]:
        """From 1 to `count` distinct points, none asked for before."""
        raise NotImplementedError
