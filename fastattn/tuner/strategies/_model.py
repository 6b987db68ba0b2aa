"""A cheap model of log-time over a space: ridge regressions in closed form, averaged.

The features of a point are those of its genes, and products of pairs of them.  Only their inner
products (the kernel) are computed, so that n scores need n equations, however many features there
are [1]_, section 2.2.  How smooth the effects of genes are, how much pairs count and how large the
residuals are differs from problem to problem, so several models are fitted and weighted by their
leave-one-out error.

.. [1] Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.tuner.space import Gene, Space

__all__ = ["Model"]

Array: TypeAlias = NDArray[np.float64]

_OCTAVES = (None, 2.0)  # length scale of an ordered gene's effect; None: a parabola
_INDEPENDENT = 0.3  # share of an ordered gene's effect that neighbouring values do not predict
_PAIRS = (0.1, 0.5)  # weight of a pair's products against a single gene's features
_RIDGES = (0.001, 0.01, 0.1)  # variance of noise and residuals against that of the features


class Model:
    """Predicts the score of every point of a space from the scores of some."""

    def __init__(self, space: Space) -> None:
        columns = [(at, gene) for at, gene in enumerate(space.genes) if len(gene.values) > 1]
        self._columns = [space.grid[:, at] for at, _ in columns]
        self._tables = [[_table(gene, octaves) for _, gene in columns] for octaves in _OCTAVES]
        self._own = _totals([table.diagonal()[c] for table, c in row] for row in self._genes())
        self._crossed: dict[int, Array] = {}  # by index: inner products with that point

    def fit(self, indices: Sequence[int], scores: Sequence[float] | Array) -> tuple[Array, Array]:
        """Mean and standard deviation of every point's score, (points,) each.

        `indices` are those of the measured points in `Space.points`, with their `scores`.  For n
        scores it takes O(n^3 + n points), times the number of models, 12.
        """
        y = np.asarray(scores, dtype=np.float64)
        centre, spread, n = y.mean(), y.std() or 1.0, len(y)
        y = (y - centre) / spread
        # Axes of what follows: kernel, ridge, and the measured points once or twice.
        kernels, priors = self._kernels(np.asarray(indices, dtype=np.intp))
        known = kernels[:, indices][:, None]
        ridges = np.array(_RIDGES)[:, None, None] * np.eye(n)
        inverses = np.linalg.inv(known + ridges)
        solved = inverses @ y
        # The error of each score's prediction from all others: [1]_, equation 5.12.
        errors = solved / np.diagonal(inverses, axis1=-2, axis2=-1)
        losses = n / 2 * np.log((errors**2).mean(axis=-1) + 1e-9)
        weights = np.exp(losses.min() - losses)
        weights /= weights.sum()
        mean = np.einsum("kpn,kn->p", kernels, (weights[..., None] * solved).sum(axis=1))
        best = np.unravel_index(losses.argmin(), losses.shape)
        kernel, inverse = kernels[best[0]], inverses[best]
        unexplained = priors[best[0]] - ((kernel @ inverse) * kernel).sum(axis=1)
        size = y @ solved[best] / n
        deviation = np.sqrt(size * np.maximum(unexplained, 0.0))
        return centre + spread * mean, spread * deviation

    def _kernels(self, indices: NDArray[np.intp]) -> tuple[Array, Array]:
        """Inner products of all points with those measured, and of each point with itself.

        Shapes (kernels, points, measured) and (kernels, points); the measured points' products
        with themselves are 1 on average.
        """
        for index in indices:
            if index not in self._crossed:
                self._crossed[index] = _totals(
                    [table[c[index]][c] for table, c in row] for row in self._genes()
                )
        single, pairs = np.stack([self._crossed[index] for index in indices], axis=-1)
        weights = np.array(_PAIRS)[:, None]
        priors = self._own[0, :, None] + weights * self._own[1, :, None]
        scales = priors[..., indices].mean(axis=-1)[..., None]
        kernels = single[:, None] + weights[..., None] * pairs[:, None]
        kernels /= scales[..., None]
        points, measured = kernels.shape[-2:]
        return kernels.reshape(-1, points, measured), (priors / scales).reshape(-1, points)

    def _genes(self) -> Iterator[list[tuple[Array, NDArray[np.intp]]]]:
        """For each length scale, each gene's table and each point's value of the gene."""
        for tables in self._tables:
            yield list(zip(tables, self._columns, strict=True))


def _totals(rows: Iterable[Sequence[Array]]) -> Array:
    """A constant plus the sum over the genes, and the sum over all products of two genes.

    Shape (2, length scales, points), from the genes' terms for each length scale.
    """
    totals = []
    for terms in rows:
        total, squares = np.sum(terms, axis=0), np.sum([term * term for term in terms], axis=0)
        totals.append((1.0 + total, (total * total - squares) / 2))
    return np.moveaxis(np.array(totals), 1, 0)


def _table(gene: Gene, octaves: float | None) -> Array:
    """Inner products of the features of a gene's values."""
    if not gene.ordered:
        return np.eye(len(gene.values))
    independent = _INDEPENDENT * np.eye(len(gene.values))
    at = np.log2(np.array(gene.values, dtype=np.float64))
    if octaves is not None:
        bumps: Array = np.exp(-0.5 * ((at[:, None] - at) / octaves) ** 2)
        return bumps + independent
    line = at - at.mean()
    line /= np.abs(line).max()
    bend = line * line - (line * line).mean()
    return np.outer(line, line) + np.outer(bend, bend) + independent
