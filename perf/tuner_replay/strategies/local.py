"""Descent from the default, one gene at a time."""

from __future__ import annotations

from collections.abc import Sequence

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies import BaseStrategy

__all__ = ["Local"]


class Local(BaseStrategy):
    """First improvement over the neighbours of the best point, gene by gene in random order.

    A batch holds the neighbours of one gene.  Where no gene has a better neighbour, the descent
    starts again at a random point.
    """

    NAME = "local"
    SUMMARY = "from the default to better neighbours, gene by gene; then anew elsewhere"

    def __init__(
        self, space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
    ) -> None:
        super().__init__(space, budget, seed, start, samples)
        self._here: Point | None = None
        self._genes: list[int] = []  # still to be tried from `_here`
        self._batch: list[Point] = []

    def _propose(self, count: int) -> list[Point]:
        self._batch = (self._steps() or self.unseen(self.start) or self.draw(1))[:count]
        return list(self._batch)

    def _steps(self) -> list[Point]:
        """Neighbours along the next gene that has any; none at the bottom of a valley."""
        self._move()
        while self._here is not None and self._genes:
            at = self._genes[-1]
            steps = [p for p in self.space.neighbours(self._here) if p[at] != self._here[at]]
            if found := self.unseen(steps):
                return found
            self._genes.pop()
        self._here = None
        return []

    def _move(self) -> None:
        """Go on from the best of the last batch if it is better than where we stand."""
        measured = [point for point in self._batch if point in self.scores]
        if not measured:
            return
        best = min(measured, key=self.scores.__getitem__)
        if self._here is None:
            genes = list(range(len(self.space.genes)))
            self.random.shuffle(genes)
        elif self.scores[best] < self.scores[self._here]:
            # The gene that has just paid off is tried first, then the others again.
            genes = [at for at in range(len(best)) if best[at] == self._here[at]]
            self.random.shuffle(genes)
            genes += [at for at in range(len(best)) if best[at] != self._here[at]]
        else:
            return
        self._here, self._genes = best, genes
