"""The ops' rule for ``torch.vmap``: its axis becomes the first batch axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["batched"]

# Axes of a call that are no batch axes, by argument; the op's order.
_OWN_AXES = {"q": 3, "k": 3, "v": 3, "mask": 3, "sinks": 1, "kv_lengths": 0, "positions": 0}


def batched(
    op: Callable[..., Any], info: Any, in_dims: tuple[Any, ...], *tensors: Any, **options: Any
) -> tuple[Any, Any]:
    """The result of an op, or its results, and the axes of them that vmap's axis has become."""
    dims = dict(zip(_OWN_AXES, in_dims, strict=False))
    found = dict(zip(_OWN_AXES, tensors, strict=False))
    if dims.get("sinks") is not None:  # one set of sinks serves a call
        return _one_by_one(op, info.batch_size, dims, found, options)
    # Axes of one call.
    ranks = {name: x.dim() - (dims[name] is not None) for name, x in found.items() if x is not None}
    batch_axes = max(0, *(ranks[name] - 3 for name in ("q", "k", "v")))
    if dims["q"] is dims["k"] is dims["v"] is None:  # masks do not widen a result
        found["q"], dims["q"] = found["q"].expand(info.batch_size, *found["q"].shape), 0
    for name, rank in ranks.items():
        if dims[name] is not None:
            missing = batch_axes + _OWN_AXES[name] - rank
            found[name] = _first(found[name], dims[name], missing)
    if ranks["q"] > 2:
        result = op(*found.values(), **options)
        return (result, (0, 0)) if isinstance(result, tuple) else (result, 0)
    for name in ("q", "k", "v"):  # 2-D: the new axis is to be one of batches, not of heads
        if dims[name] is None:
            found[name] = found[name][None]
    result = op(*found.values(), **options)
    if isinstance(result, tuple):
        return tuple(x.squeeze(1) for x in result), (0, 0)
    return result.squeeze(1), 0


def _first(x: torch.Tensor, dim: int, missing: int) -> torch.Tensor:
    """`x` with axis `dim` first, before `missing` axes of length 1."""
    moved = x.movedim(dim, 0)
    return moved.reshape(moved.shape[0], *(1,) * missing, *moved.shape[1:])


def _one_by_one(
    op: Callable[..., Any],
    size: int,
    dims: dict[str, Any],
    tensors: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Any, Any]:
    results = [
        op(
            *(x if dims[name] is None else x.select(dims[name], i) for name, x in tensors.items()),
            **options,
        )
        for i in range(size)
    ]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(column) for column in zip(*results, strict=True)), (0, 0)
    return torch.stack(results), 0
