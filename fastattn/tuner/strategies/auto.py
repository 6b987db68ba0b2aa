"""The strategy for those who do not choose one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies._base import Strategy, Trial
from fastattn.tuner.strategies.exhaustive import Exhaustive
from fastattn.tuner.strategies.genetic import Genetic

__all__ = ["Auto"]


class Auto:
    """Another strategy under its own name; `state` tells which."""

    NAME: ClassVar[str] = "auto"
    SUMMARY: ClassVar[str] = "exhaustive where the space fits the budget, else genetic"

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), blocks: int = 5
    ) -> None:
        chosen = Exhaustive if len(space) <= budget else Genetic
        self._strategy: Strategy = chosen(space, budget, seed, start, blocks)

    def ask(self) -> list[Trial]:
        return self._strategy.ask()

    def tell(self, point: Point, score: float | None) -> None:
        self._strategy.tell(point, score)

    def best(self) -> Point | None:
        return self._strategy.best()

    def state(self) -> dict[str, Any]:
        return self._strategy.state()
