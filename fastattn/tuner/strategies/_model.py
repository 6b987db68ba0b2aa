"""A cheap model of log-time over a space: ridge regression in closed form.

A point's features are, for each gene, low polynomials of its ordered value's logarithm or an
indicator of its unordered value, and their products over pairs of genes.  They enter through
their inner products, the kernel: for a handful of scores that is a handful of equations,
however many features there are [1]_, section 2.

.. [1] Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.tuner.space import Gene, Space

__all__ = ["Model"]

Array: TypeAlias = NDArray[np.float64]

_PAIRS = (0.0, 0.3, 1.0)  # weight of products of two genes against single ones
_RIDGES = (0.001, 0.01, 0.1)  # noise and ruggedness against one gene's effect


class Model:
    """Predicts the score of every point of a space from the scores of some."""

    def __init__(self, space: Space) -> None:
        self._grid = space.grid
        self._tables = [_table(gene) for gene in space.genes]

    def fit(self, places: list[int], scores: list[float]) -> tuple[Array, Array]:
        """Mean and standard deviation of every point's score.

        Parameters
        ----------
        places : list of int
            Of the points that were measured, in `Space.points`.
        scores : list of float
        """
        y = np.asarray(scores, dtype=np.float64)
        centre, spread = y.mean(), y.std() or 1.0
        y = (y - centre) / spread
        single, pairs = self._kernel(places)
        best = None
        for weight in _PAIRS:
            kernel = single + weight * pairs
            known = kernel[places]
            scale = np.trace(known) / len(y)
            for ridge in _RIDGES:
                inverse = np.linalg.inv(known / scale + ridge * np.eye(len(y)))
                solved = inverse @ y
                errors = solved / np.diag(inverse)  # leaving one out, [1]_ equation 5.12
                loss = float(errors @ errors)
                if best is None or loss < best[0]:
                    best = loss, kernel / scale, inverse, solved
        assert best is not None
        loss, kernel, inverse, solved = best
        mean = centre + spread * (kernel @ solved)
        explained = np.einsum("ij,jk,ik->i", kernel, inverse, kernel)
        own = explained.max()
        return mean, spread * np.sqrt(np.maximum(own - explained, 0))

    def _kernel(self, places: list[int]) -> tuple[Array, Array]:
        """Inner products of every point's features with those of some: single, and of pairs."""
        shape = len(self._grid), len(places)
        total, squares = np.zeros(shape), np.zeros(shape)
        for at, table in enumerate(self._tables):
            column = self._grid[:, at]
            part = table[np.ix_(column, column[places])]
            total += part
            squares += part * part
        return 1 + total, (total * total - squares) / 2


def _table(gene: Gene) -> Array:
    """Inner products of the features of a gene's values."""
    if not gene.ordered:
        return np.eye(len(gene.values))
    octaves = np.log2(np.array(gene.values, dtype=np.float64))
    z = octaves - octaves.mean()
    z /= np.abs(z).max() or 1.0
    square = z * z - (z * z).mean()
    return np.outer(z, z) + np.outer(square, square)
