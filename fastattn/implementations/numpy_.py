"""The definition: attention as the paper writes it, in NumPy, to be read.

    s = scale * q k^T  ->  softcap  ->  masks  ->  softmax (with sinks)  ->  @ v

[1]_, equation 1.  All scores are held at once, which takes O(B Hq Lq Lk) memory.  It does
not tile, thread or choose instructions: the matrix products are left to BLAS, and so are
their threads.

.. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastattn import masks
from fastattn._arithmetic import in_default_arithmetic
from fastattn._config import Config
from fastattn._problem import Problem
from fastattn._spec import CallSpec

NAME = "numpy"
SUMMARY = "reference: two matrix products of BLAS, with all scores in memory"
TUNABLES: frozenset[str] = frozenset()
MASKS = frozenset(kind.NAME for kind in masks.KINDS)


def missing() -> str | None:
    """Why this implementation cannot run here; always None, since it can run anywhere."""
    return None


def supports(spec: CallSpec) -> str | None:
    """Why it cannot compute such a call; always None, since it is the definition."""
    return None


def fingerprint() -> dict[str, str]:
    """Nothing: it has no field that wisdom could remember."""
    return {}


def configure(spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
    """There is nothing to choose: BLAS decides."""
    return config, {}


def prepare(spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """Nothing is prepared: `run` computes any call."""
    return run


def run(problem: Problem) -> None:
    """Compute the call and write `problem.out` and `problem.lse`."""
    # NaN and infinity are data here, not errors: they stay in the rows that attend to them.
    with np.errstate(all="ignore"):
        in_default_arithmetic(_run, problem)


def _run(problem: Problem) -> None:
    g = problem.spec
    compute = g.dtype.compute
    q, out = _grouped(problem.full("q"), g), _grouped(problem.full("out"), g)
    k, v = (_shared(x.astype(compute, copy=False), g) for x in (problem.k, problem.v))

    scale, factor = map(compute.type, g.factors)
    s = (q * scale) @ k.swapaxes(-1, -2)
    if factor != 1:
        s *= factor
    if g.softcap is not None:
        s = g.softcap * np.tanh(s / g.softcap)
    if problem.mask is not None and problem.mask.dtype != np.bool_:
        s += problem.mask.reshape(s.shape)
    visible = masks.visible(problem)
    if visible is not None:
        visible = np.broadcast_to(visible, g.scores_shape).reshape(s.shape)
        np.copyto(s, -np.inf, where=~visible)

    # Finite even for a fully masked row, whose weights are then exp(-inf) = 0.
    m = s.max(axis=-1, keepdims=True, initial=np.finfo(compute).min)
    s -= m
    e = np.exp(s, out=s)
    l = e.sum(axis=-1, keepdims=True)
    if problem.lse is not None:
        problem.lse[...] = (m + np.log(l)).reshape(problem.lse.shape)

    fully_masked = l == 0  # other rows have l >= 1
    if problem.sinks is not None:
        sink = _grouped(problem.sinks.astype(compute)[:, None, None], g)
        m_s = np.fmax(m, sink)
        e *= np.exp(m - m_s)
        l = l * np.exp(m - m_s) + np.exp(sink - m_s)
    o = _weighted_sum(e, v, visible)
    np.divide(o, np.where(fully_masked, 1, l), out=out, casting="unsafe")


def _grouped(array: np.ndarray, g: CallSpec) -> np.ndarray:
    """A view of (..., Hq, L, D) as (..., Hkv, G, L, D), if heads share keys."""
    if g.group == 1:
        return array
    return array.reshape(*array.shape[:-3], g.heads_kv, g.group, *array.shape[-2:])


def _shared(array: np.ndarray, g: CallSpec) -> np.ndarray:
    """A view of (..., Hkv, L, D) as (..., Hkv, 1, L, D), if heads share keys."""
    return array if g.group == 1 else array[..., None, :, :]


def _weighted_sum(e: np.ndarray, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
    """``e @ v``, in which a masked NaN or infinity of v does not leak (0 * NaN = NaN)."""
    if visible is None or (finite := np.isfinite(v)).all():
        return np.asarray(e @ v)
    o: np.ndarray = e @ np.where(finite, v, 0)
    v = np.where(finite, 0, v)
    for j in np.flatnonzero(~finite.all(axis=tuple(a for a in range(v.ndim) if a != v.ndim - 2))):
        products = e[..., j, None] * v[..., j, None, :]
        o += np.where(visible[..., j, None], products, 0)
    return o
