"""Mask kinds, one file each, and their registry `KINDS`.

A key is visible to a query unless some kind masks it.  The ``numpy`` implementation uses
`visible`, and the numbers of a floating mask; the compiled ones read the band, the lengths
and the dense array tile by tile.  `lowered` brings every kind that an implementation does
not read (its ``MASKS``) into the dense mask.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fastattn._problem import Problem
from fastattn._spec import EVERYTHING, Band, CallSpec
from fastattn.masks import causal, dense, lengths, window
from fastattn.masks._kind import Kind, OperandKind

__all__ = [
    "KINDS",
    "band",
    "labels",
    "lowered",
    "lowered_spec",
    "operands",
    "visible",
    "with_masks",
]

KINDS: tuple[Kind, ...] = (dense, causal, window, lengths)


def with_masks(spec: CallSpec, further: tuple[str, ...] = ()) -> CallSpec:
    """`spec` with its `masks` and `band`; `further` names the kinds that have operands."""
    spec = replace(spec, masks=further)
    names = tuple(kind.NAME for kind in KINDS if kind.label(spec) is not None)
    return replace(spec, masks=names, band=band(spec))


def band(spec: CallSpec) -> Band:
    """Band that every kind agrees on: no key outside it is visible."""
    return functools.reduce(operator.and_, (kind.band(spec) for kind in KINDS), EVERYTHING)


def labels(spec: CallSpec) -> tuple[str, ...]:
    """What masks keys in a call, as an explanation says it."""
    return tuple(label for kind in KINDS if (label := kind.label(spec)) is not None)


def operands(values: Mapping[str, Any], spec: CallSpec) -> dict[str, Any]:
    """Checked operands of the kinds beyond `mask` and `kv_lengths`, by name."""
    kinds = {kind.NAME: cast(OperandKind, kind) for kind in KINDS}
    return {name: kinds[name].check(value, spec) for name, value in values.items()}


def visible(problem: Problem) -> np.ndarray | None:
    """Visible keys, bool, broadcast to (*batch, Hq, Lq, Lk); None where every key is visible."""
    return _all_of(problem, KINDS)


def lowered(problem: Problem, handled: frozenset[str]) -> Problem:
    """`problem` with the mask kinds that `handled` lacks brought into the dense mask.

    Their masked keys become False in a boolean mask and -inf in a floating one.  The dense
    mask that results takes O(B Hq Lq Lk) memory, less the axes along which all of it is the
    same; kernels skip its empty tiles.
    """
    spec = lowered_spec(problem.spec, handled)
    if spec is problem.spec:
        return problem
    unhandled = [kind for kind in KINDS if kind.NAME not in handled | {dense.NAME}]
    visible_keys, mask = _all_of(problem, unhandled), problem.mask
    if mask is None:
        mask = np.asarray(True) if visible_keys is None else visible_keys
    elif visible_keys is not None and mask.dtype == np.bool_:
        mask = mask & visible_keys
    elif visible_keys is not None:
        mask = np.where(visible_keys, mask, mask.dtype.type(-np.inf))
    return replace(
        problem,
        spec=spec,
        mask=np.broadcast_to(mask, spec.scores_shape),
        lengths=problem.lengths if spec.has_lengths else None,
    )


@functools.lru_cache(maxsize=4096)
def lowered_spec(spec: CallSpec, handled: frozenset[str]) -> CallSpec:
    """Spec of the `lowered` problem; `spec` itself if there is nothing to lower."""
    if handled.issuperset(spec.masks):
        return spec
    return replace(
        spec,
        mask_dtype=spec.mask_dtype or "bool",
        causal=spec.causal and causal.NAME in handled,
        window=spec.window if window.NAME in handled else None,
        has_lengths=spec.has_lengths and lengths.NAME in handled,
        masks=(dense.NAME, *(name for name in spec.masks if name in handled - {dense.NAME})),
    )


def _all_of(problem: Problem, kinds: Sequence[Kind]) -> np.ndarray | None:
    found = [array for kind in kinds if (array := kind.visible(problem)) is not None]
    return functools.reduce(np.logical_and, found) if found else None
