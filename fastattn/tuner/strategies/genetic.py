"""The genetic algorithm that measures only offspring which a model expects to be good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies._base import Books
from fastattn.tuner.strategies._model import Model

__all__ = ["Genetic"]


class Genetic(Books):
    """A population seeded with `start`, bred over generations, screened by a model."""

    NAME = "genetic"
    SUMMARY = "seeded population, crossover and mutation, offspring screened by a model"

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), blocks: int = 5
    ) -> None:
        super().__init__(space, budget, seed, start, blocks)
        self._model = Model(space)

    def _propose(self, count: int) -> list[Point]:
        if len(self.scores) < 3:
            first = self.fresh(self.start)[:count]
            return first + self.drawn(min(count, 8) - len(first), first)
        places = [self.space.place(point) for point in self.asked if point in self.scores]
        scores = [self.scores[self.space.points[place]] for place in places]
        mean, _ = self._model.fit(places, scores)
        order = self.fresh(self.space.points[at] for at in np.argsort(mean, kind="stable"))
        return order[: min(count, 4)]
