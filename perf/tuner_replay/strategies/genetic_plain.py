"""The genetic algorithm as published: the baseline of `genetic`."""

from __future__ import annotations

import math

from fastattn.tuner.space import Point
from fastattn.tuner.strategies import BaseStrategy

__all__ = ["GeneticPlain"]

_MUTATION = 0.1  # probability for each gene
_TRIES = 50  # to breed a child that is new


class GeneticPlain(BaseStrategy):
    """Random population, tournaments of two, uniform crossover, light mutation, generations.

    `start` is not used, and nothing but the order of the scores is learned from.  A child that
    was proposed before, or is not valid, is drawn anew.
    """

    NAME = "genetic-plain"
    SUMMARY = "random population, crossover and mutation over generations"

    def _propose(self, count: int) -> list[Point]:
        size = min(count, max(4, round(math.sqrt(2 * self.budget))))
        parents = self.ranked()[:size]
        children: list[Point] = []
        for _ in range(_TRIES * size):
            if len(parents) < 2 or len(children) == size:
                break
            child = self._child(self.tournament(parents), self.tournament(parents))
            if child in self.space and child not in self.seen and child not in children:
                children.append(child)
        return children + self.draw(size - len(children), children)

    def _child(self, mother: Point, father: Point) -> Point:
        child = [self.random.choice(pair) for pair in zip(mother, father, strict=True)]
        for at, gene in enumerate(self.space.genes):
            if self.random.random() < _MUTATION:
                child[at] = self.random.randrange(len(gene.values))
        return tuple(child)
