"""A genetic algorithm whose offspring are screened by a model before they are measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies._base import BaseStrategy
from fastattn.tuner.strategies._model import Array, Model

__all__ = ["Genetic"]

_FIRST = 1.5  # the first population's size over the square root of the budget
_DRAWS = 24  # random points, of which the one farthest from the population is taken
_UNORDERED_DISTANCE = 0.7  # between unordered values; the ends of an ordered gene are 1 apart
_GENERATION = 4
_PARENTS = 6
_CHILDREN = 60  # bred in each generation, for the model to choose from
_MIN_SCORES = 3  # that a model needs


class Genetic(BaseStrategy):
    """A seeded population, bred over generations, its offspring screened by a model.

    The first population is `start`, its first point with each other value of each unordered
    gene, and points spread over the space.  A later generation is, by the model's prediction:

    - the best neighbour of the best point;
    - for half of the generation, the best children of the best points, by tournament, uniform
      crossover and mutation (of ordered genes by one step);
    - the points of the space with the lowest confidence bound: mean less one standard deviation.
    """

    NAME = "genetic"
    SUMMARY = "genetic algorithm; a model of the measured times selects among new points"

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
    ) -> None:
        super().__init__(space, budget, seed, start, samples)
        self._model = Model(space)

    def _propose(self, count: int) -> list[Point]:
        if not self.proposed:
            return self._first(count)
        size = math.ceil(count / max(1, round(count / _GENERATION)))
        if len(self.scores) < _MIN_SCORES:
            return self.draw(size)
        return self._next(size)

    def _first(self, count: int) -> list[Point]:
        size = min(count, max(len(self.start), round(_FIRST * math.sqrt(self.budget))))
        points = list(dict.fromkeys([*self.start, *self._alternatives()]))[:size]
        distances = np.full(len(self.space), np.inf)  # of each point from the nearest taken
        for point in points:
            np.minimum(distances, self._distances(point), out=distances)
        while len(points) < size:
            draws = self.draw(_DRAWS, points)
            points.append(max(draws, key=lambda point: distances[self.space.index(point)]))
            np.minimum(distances, self._distances(points[-1]), out=distances)
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

    def _distances(self, point: Point) -> Array:
        """Distance of every point of the space from this one: the sum over the genes."""
        total = np.zeros(len(self.space))
        for gene, here, column in zip(self.space.genes, point, self.space.grid.T, strict=True):
            if gene.ordered:
                total += np.abs(column - here) / max(1, len(gene.values) - 1)
            else:
                total += _UNORDERED_DISTANCE * (column != here)
        return total

    def _next(self, size: int) -> list[Point]:
        indices = [self.space.index(point) for point in self.proposed if point in self.scores]
        scores = np.array([self.scores[self.space.points[i]] for i in indices])
        # tanh keeps the very slow points from dominating the fit.
        excess = np.tanh(scores - scores.min())
        mean, deviation = self._model.fit(indices, excess)
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
        new = [point for point in self.unseen(pool) if point not in besides]
        order = np.argsort(forecast[[self.space.index(p) for p in new]], kind="stable")
        return [new[i] for i in order]

    def _children(self, parents: Sequence[Point]) -> list[Point]:
        bred = (
            self._child(self.tournament(parents), self.tournament(parents))
            for _ in range(_CHILDREN)
        )
        return [child for child in bred if child in self.space]

    def _child(self, mother: Point, father: Point) -> Point:
        child = [self.random.choice(pair) for pair in zip(mother, father, strict=True)]
        for i, gene in enumerate(self.space.genes):
            if self.random.random() < 1 / len(child):
                if gene.ordered:
                    step = child[i] + self.random.choice((-1, 1))
                    child[i] = min(max(step, 0), len(gene.values) - 1)
                else:
                    child[i] = self.random.randrange(len(gene.values))
        return tuple(child)
