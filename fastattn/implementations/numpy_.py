"""The definition: attention as the paper writes it, in NumPy, to be read.

    s = scale * q k^T  ->  softcap  ->  masks  ->  softmax (with sinks)  ->  @ v

[1]_, equation 1.  Everything is held at once: the scores take O(B Hq Lq Lk)
memory.  It will not tile, thread or choose instructions: the matrix products are
BLAS's, and so are their threads.

.. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
"""

from __future__ import annotations

import numpy as np

from fastattn import masks
from fastattn._config import Config
from fastattn._problem import Geometry, Problem

NAME = "numpy"
SUMMARY = "the definition: two BLAS products around a softmax held in memory"
TUNABLES: frozenset[str] = frozenset()


def missing() -> str | None:
    """Why this implementation cannot run here: it always can."""
    return None


def configure(geometry: Geometry, config: Config) -> tuple[Config, dict[str, str]]:
    """There is nothing to choose: BLAS decides."""
    return config, {}


def run(problem: Problem, config: Config) -> None:
    """Compute the call and write `problem.out` and `problem.lse`."""
    # NaN and infinity are data here: they stay in the rows that see them.
    with np.errstate(all="ignore"):
        _run(problem)


def _run(problem: Problem) -> None:
    g = problem.geometry
    # Heads that share keys stand in an axis of their own, (*batch, Hkv, G, L, ...), against
    # which k and v broadcast: nothing is copied for them.
    q, out = _grouped(problem.full("q"), g), _grouped(problem.full("out"), g)
    k, v = (problem.full(name)[..., None, :, :].astype(g.dtype.compute, copy=False) for name in "kv")
    visible = masks.visible(problem)
    if visible is not None:
        visible = _grouped(np.broadcast_to(visible, _scores_shape(g)), g)

    s = (q * g.dtype.compute.type(g.scale)) @ k.swapaxes(-1, -2)
    if g.softcap is not None:
        s = g.softcap * np.tanh(s / g.softcap)
    if problem.mask is not None and problem.mask.dtype != np.bool_:
        s += _grouped(problem.mask, g)
    if visible is not None:
        np.copyto(s, -np.inf, where=~visible)

    m = s.max(axis=-1, keepdims=True, initial=-np.inf)
    m[m == -np.inf] = 0  # a row that sees nothing: exp(-inf - 0) = 0 for each of its keys
    s -= m
    e = np.exp(s, out=s)
    l = e.sum(axis=-1, keepdims=True)
    if problem.lse is not None:
        problem.full("lse")[...] = (m + np.log(l)).reshape(problem.full("lse").shape)

    if problem.sinks is not None:
        sink = problem.sinks.astype(g.dtype.compute).reshape(g.heads_kv, g.group, 1, 1)
        top = np.where(l > 0, np.fmax(m, sink), sink)
        e *= np.exp(m - top)
        l = l * np.exp(m - top) + np.exp(sink - top)
    o = _weighted_sum(e, v, visible)
    np.divide(o, np.where(l == 0, 1, l), out=o)
    out[...] = o


def _scores_shape(g: Geometry) -> tuple[int, ...]:
    return (*g.batch_shape, g.heads_q, g.length_q, g.length_k)


def _grouped(array: np.ndarray, g: Geometry) -> np.ndarray:
    """(*batch, Hq, L, ...) as (*batch, Hkv, G, L, ...), a view."""
    return array.reshape(*array.shape[:-3], g.heads_kv, g.group, *array.shape[-2:])


def _weighted_sum(e: np.ndarray, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
    """``e @ v``, in which a hidden key's NaN or infinity (0 * NaN = NaN) does not leak."""
    if visible is None or (finite := np.isfinite(v)).all():
        return e @ v
    o = e @ np.where(finite, v, 0)
    v = np.where(finite, 0, v)
    for j in np.flatnonzero(~finite.all(axis=tuple(a for a in range(v.ndim) if a != v.ndim - 2))):
        seen = e[..., j, None] * v[..., j, None, :]
        o += np.where(visible[..., j, None], seen, 0)
    return o
