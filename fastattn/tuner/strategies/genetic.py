"""A genetic algorithm that measures only the offspring of which a model expects most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies._base import Books
from fastattn.tuner.strategies._model import Array, Model

__all__ = ["Genetic"]

_FIRST = 1.5  # the first population's size over the square root of the budget
_SPREAD_OVER = 24  # draws, of which the one farthest from the others is taken
_UNLIKE = 0.7  # distance between unordered values, if an ordered gene's ends are 1 apart
_GENERATION = 4
_PARENTS = 6
_CHILDREN = 60  # bred in each generation, for the model to choose from
_SCORES_LEAST = 3  # that a model needs


class Genetic(Books):
    """A seeded population, bred over generations, its offspring screened by a model.

    The first population is `start`, its first point with each other value of each unordered
    gene, and points spread over the space.  A later generation is, by the model's prediction:

    - the best step from the best point: elitism;
    - the best children of the best points, by tournament, uniform crossover and mutation,
      ordered genes by one step: half of the generation;
    - the points of the whole space that promise most: mean less one standard deviation.
    """

    NAME = "genetic"
    SUMMARY = "seeded population, crossover and mutation, offspring screened by a model"

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), blocks: int = 5
    ) -> None:
        super().__init__(space, budget, seed, start, blocks)
        self._model = Model(space)

    def _propose(self, count: int) -> list[Point]:
        if not self.asked:
            return self._first(count)
        size = math.ceil(count / max(1, round(count / _GENERATION)))
        if len(self.scores) < _SCORES_LEAST:
            return self.drawn(size)
        return self._next(size)

    def state(self) -> dict[str, Any]:
        return super().state() | {"population": [list(p) for p in self.ranked()[:_PARENTS]]}

    def _first(self, count: int) -> list[Point]:
        size = min(count, max(len(self.start), round(_FIRST * math.sqrt(self.budget))))
        points = list(dict.fromkeys([*self.start, *self._alternatives()]))[:size]
        apart = np.full(len(self.space), np.inf)  # distance of each point from the nearest taken
        for point in points:
            np.minimum(apart, self._apart(point), out=apart)
        while len(points) < size:
            draws = self.drawn(_SPREAD_OVER, points)
            points.append(max(draws, key=lambda point: apart[self.space.place(point)]))
            np.minimum(apart, self._apart(points[-1]), out=apart)
        return points

    def _alternatives(self) -> list[Point]:
        """The first point of `start`, with each other value of one unordered gene."""
        return [
            other
            for point in self.start[:1]
            for other in self.space.neighbours(point)
            for gene, mine, its in zip(self.space.genes, point, other, strict=True)
            if mine != its and not gene.ordered
        ]

    def _apart(self, point: Point) -> Array:
        """Distance of every point of the space from this one: the sum over the genes."""
        total = np.zeros(len(self.space))
        for gene, here, column in zip(self.space.genes, point, self.space.grid.T, strict=True):
            if gene.ordered:
                total += np.abs(column - here) / max(1, len(gene.values) - 1)
            else:
                total += _UNLIKE * (column != here)
        return total

    def _next(self, size: int) -> list[Point]:
        places = [self.space.place(point) for point in self.asked if point in self.scores]
        scores = np.array([self.scores[self.space.points[place]] for place in places])
        # Without tanh, how slow the slow ones are would drown what tells the fast ones apart.
        excess = np.tanh(scores - scores.min())
        mean, deviation = self._model.fit(places, excess)
        parents = self.ranked()[:_PARENTS]
        points: list[Point] = []
        for pool, forecast, share in (
            (self.space.neighbours(parents[0]), mean, 1),
            (self._children(parents), mean, size // 2),
            (self.space.points, mean - deviation, size),
        ):
            room = min(share, size - len(points))
            points += self._screened(pool, forecast, points)[:room]
        return points

    def _screened(
        self, pool: Iterable[Point], forecast: Array, besides: Sequence[Point]
    ) -> list[Point]:
        """Points of `pool` that are new, the lowest forecast first."""
        new = [point for point in self.fresh(pool) if point not in besides]
        order = np.argsort(forecast[[self.space.place(p) for p in new]], kind="stable")
        return [new[at] for at in order]

    def _children(self, parents: Sequence[Point]) -> list[Point]:
        bred = (self._child(self._better(parents), self._better(parents)) for _ in range(_CHILDREN))
        return [child for child in bred if child in self.space]

    def _child(self, mother: Point, father: Point) -> Point:
        child = [self.random.choice(pair) for pair in zip(mother, father, strict=True)]
        for at, gene in enumerate(self.space.genes):
            if self.random.random() < 1 / len(child):
                if gene.ordered:
                    step = child[at] + self.random.choice((-1, 1))
                    child[at] = min(max(step, 0), len(gene.values) - 1)
                else:
                    child[at] = self.random.randrange(len(gene.values))
        return tuple(child)
