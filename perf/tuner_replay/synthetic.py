"""Tables that no machine produced: landscapes that are hard for a tuner, made from a seed.

`make("trap:3")` is the landscape `trap` with the seed 3, and is always the same.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastattn._errors import ArgumentError
from fastattn.tuner.space import Gene, Space
from perf.tuner_replay.recorded_table import Table

__all__ = ["LANDSCAPES", "make", "space"]

REPETITIONS, PROCESSES = 21, 3
CALL_SECONDS, SAMPLE_SECONDS = 1e-3, 0.010
NOISE = 0.01  # standard deviation of a sample's logarithm, unless the landscape has its own

Array = NDArray[np.float64]


def space() -> Space:
    """Genes like the kernels', with 384 points."""
    genes = (
        Gene("impl", ("a", "b"), False, "implementation"),
        Gene("isa", ("x", "y"), False, "instruction set"),
        Gene("block_q", (16, 32, 64, 128, 256, 512), True, "rows of a block"),
        Gene("block_k", (32, 48, 64, 96, 128, 192, 256, 384), True, "columns of a block"),
        Gene("threads", (1, 2), True, "threads"),
    )
    points = tuple(itertools.product(*(range(len(gene.values)) for gene in genes)))
    return Space("synthetic", genes, points)


def flat(at: Array, rng: np.random.Generator) -> Array:
    """All points within half a per cent: nothing can be won, but seed can look like a win."""
    return np.log(rng.uniform(1.0, 1.005, len(at)))


def smooth(at: Array, rng: np.random.Generator) -> Array:
    """One valley, in which genes interact."""
    slopes = rng.uniform(0.1, 0.6, at.shape[1])
    away = at - rng.uniform(0, 1, at.shape[1])
    together = rng.uniform(-0.3, 0.3, (at.shape[1], at.shape[1]))
    height: Array = (slopes * away**2).sum(axis=1)
    height += np.einsum("pi,ij,pj->p", away, together, away) ** 2
    return height


def multimodal(at: Array, rng: np.random.Generator) -> Array:
    """Several valleys of about the same depth, far from each other."""
    centres = at[rng.choice(len(at), 6, replace=False)]
    depths = np.concatenate([[0.30], rng.uniform(0.15, 0.25, 5)])
    away = ((at[:, None] - centres) ** 2).sum(axis=2)
    valleys: Array = depths * np.exp(-away / 0.08)
    height: Array = 0.4 - valleys.max(axis=1)
    return height


def trap(at: Array, rng: np.random.Generator) -> Array:
    """A wide slope leads to the default's corner; the best point lies in the opposite corner."""
    away = np.abs(at - at[-1]).mean(axis=1)
    hole = 0.35 * np.exp(-(((at - at[0]) ** 2).sum(axis=1)) / 0.06)
    height: Array = 0.2 * away - hole + 0.01 * rng.uniform(0, 1, len(at))
    return height


def rugged(at: Array, rng: np.random.Generator) -> Array:
    """Neighbours have nothing in common: no strategy can know better than chance."""
    return rng.gamma(4.0, 0.08, len(at))


# Name -> heights, and the noise of a sample.
LANDSCAPES: dict[str, tuple[Callable[[Array, np.random.Generator], Array], float]] = {
    "flat": (flat, NOISE),
    "multimodal": (multimodal, NOISE),
    "noisy": (smooth, 0.10),
    "quiet": (smooth, 0.0),
    "rugged": (rugged, NOISE),
    "trap": (trap, NOISE),
}


def make(name: str) -> Table:
    """A table by its landscape's name and a seed: ``flat:1``.

    Raises
    ------
    ArgumentError
        There is no such landscape.
    """
    landscape, _, seed = name.partition(":")
    if landscape not in LANDSCAPES or not seed.isdecimal():
        accepted = ", ".join(f"{known}:SEED" for known in LANDSCAPES)
        raise ArgumentError("table", repr(name), accepted, "write 'flat:1'")
    heights, noise = LANDSCAPES[landscape]
    rng = np.random.default_rng([zlib.crc32(landscape.encode()), int(seed)])
    target = space()
    sizes = np.array([max(1, len(gene.values) - 1) for gene in target.genes])
    logs = heights(target.grid / sizes, rng)
    seconds = np.exp(
        math.log(CALL_SECONDS)
        + logs[:, None]
        + noise * rng.standard_normal((len(target), REPETITIONS))
        + noise
        * rng.standard_normal(REPETITIONS)  # the repetition's own effect, the same for all points
    )
    return Table(
        name=name,
        space=target,
        baseline=target.points[-1],
        seconds=seconds,
        sample_seconds=np.full(len(target), SAMPLE_SECONDS),
        processes=tuple(i * PROCESSES // REPETITIONS for i in range(REPETITIONS)),
        failures={},
        metadata={"landscape": landscape, "seed": int(seed), "noise": noise},
    )
