"""torch's ``scaled_dot_product_attention`` on the CPU, computed by fastattn.

torch calls one dispatcher op for it.  Each op asks the dispatcher key BackendSelect before the key
of a device.  We register for it, so torch's own kernel for the CPU stays in its place, for calls
that we decline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy import empty, float32, float64  # looked up by name alone, for small calls
from torch._C import DispatchKey, _dispatch_keyset_full_after

from fastattn._errors import FastattnError
from fastattn._interop import from_torch
from fastattn._normalise import normalise
from fastattn.torch._compute import arrays, as_tensor, solve
from fastattn.torch._status import COUNTS, ELSEWHERE, Status

__all__ = ["disable", "enable", "enabled", "status"]

_NAME = "fastattn"
_OP = "_scaled_dot_product_flash_attention_for_cpu"
_redispatch = getattr(torch.ops.aten, _OP).default.redispatch
_DEVICES = _dispatch_keyset_full_after(DispatchKey.BackendSelect)


class _Override:
    """Computes the op's calls until `remove`."""

    def __init__(self) -> None:
        self._library: Any = torch.library.Library("aten", "IMPL")
        self._library.impl(_OP, _forward, "BackendSelect", with_keyset=True)

    def remove(self) -> None:
        """Leave the op to torch's own kernel again."""
        self._library = None  # torch takes back what a library registered when nobody holds it


class _Registry:
    """In place of torch's registry of attention implementations: torch 2.10's cannot restore."""

    _active: _Override | None = None

    def register_flash_attention_impl(self, name: str, *, register_fn: type[_Override]) -> None:
        pass

    def current_flash_attention_impl(self) -> str | None:
        return None if self._active is None else _NAME

    def activate_flash_attention_impl(self, name: str) -> None:
        self._active = _Override()

    def restore_flash_attention_impl(self) -> None:
        self._active = None


def _forward(
    keys: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if query.is_cpu:  # while torch traces, tensors have no memory and another device
        if dropout_p:
            reason = "dropout"
        elif query.dim() != 4:
            reason = "not four axes"
        else:
            try:
                return _computed(query, key, value, is_causal, attn_mask, scale)
            except FastattnError as error:
                reason = str(error)
        COUNTS.declined[reason] += 1
    result: tuple[torch.Tensor, torch.Tensor] = _redispatch(
        keys & _DEVICES,
        query,
        key,
        value,
        dropout_p,
        is_causal,
        attn_mask=attn_mask,
        scale=scale,
    )
    return result


def _computed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool,
    mask: torch.Tensor | None,
    scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Result and log-sum-exp, with the strides of torch's meta kernel: like the query, and BLH."""
    q, k, v = arrays(query, key, value)
    out = None if q.flags.c_contiguous else torch.empty_like(query)
    batch, heads, length, _ = q.shape
    lse = empty((batch, length, heads), float64 if q.dtype == float64 else float32).swapaxes(1, 2)
    problem = normalise(
        q,
        k,
        v,
        None if mask is None else from_torch(mask),
        is_causal,
        align="top_left" if is_causal else None,
        scale=scale,
        return_lse=True,
        out=None if out is None else from_torch(out),
        lse=lse,
    )
    if problem.out.shape != q.shape:
        raise FastattnError(
            "query, key, value",
            f"shapes {q.shape}, {k.shape}, {v.shape}",
            "a result of the query's shape",
            "call fastattn.torch.attention",
        )
    solve(problem)
    COUNTS.served += 1
    if mask is not None:  # torch's backward wants 0, and not -inf, where no key is visible
        np.copyto(lse, 0, where=lse == -np.inf)
    return as_tensor(problem.out) if out is None else out, as_tensor(lse)


_registry: Any = (
    torch.nn.attention
    if hasattr(torch.nn.attention, "restore_flash_attention_impl")
    else _Registry()
)
_registry.register_flash_attention_impl(_NAME, register_fn=_Override)


def enable() -> None:
    """Make torch's ``scaled_dot_product_attention`` call fastattn for CPU tensors.

    This holds for the whole process, compiled and exported modules included, in float32, float64,
    float16 and bfloat16.  Training works, with torch's own backward pass.  Calls that fastattn
    cannot compute are passed on to torch's own kernel; `status` counts them.  A call uses at most
    ``torch.get_num_threads()`` threads.

    torch's registry of attention implementations, from torch 2.11 on, has one active implementation
    at a time: another one, such as FA4 on CUDA, is deactivated.

    See Also
    --------
    disable, enabled, status

    Examples
    --------
    >>> import torch, fastattn.torch
    >>> fastattn.torch.enable()
    >>> q = k = v = torch.ones(1, 2, 10, 8)
    >>> torch.nn.functional.scaled_dot_product_attention(q, k, v).shape
    torch.Size([1, 2, 10, 8])
    >>> fastattn.torch.disable()
    """
    if not _is_active():
        _registry.activate_flash_attention_impl(_NAME)


def disable() -> None:
    """Restore torch's own ``scaled_dot_product_attention``, if `enable` has replaced it.

    Examples
    --------
    >>> import fastattn.torch
    >>> fastattn.torch.disable()
    """
    if _is_active():
        _registry.restore_flash_attention_impl()


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Context manager: `enable` inside, for all threads; the previous state is restored at its end.

    Examples
    --------
    >>> import torch, fastattn.torch
    >>> x = torch.ones(1, 2, 10, 8)
    >>> with fastattn.torch.enabled():
    ...     y = torch.nn.functional.scaled_dot_product_attention(x, x, x)
    >>> fastattn.torch.status().enabled
    False
    """
    before = _registry.current_flash_attention_impl()
    enable()
    try:
        yield
    finally:
        if before is None:
            disable()
        elif before != _NAME:
            _registry.activate_flash_attention_impl(before)


def status() -> Status:
    """Count the calls of ``scaled_dot_product_attention`` since the import of this module.

    Returns
    -------
    Status
        Numbers of calls that fastattn computed, and of calls that it passed on to torch, with the
        reasons.  Also the kinds of calls that torch never passes to fastattn, each with what to do.

    Examples
    --------
    >>> import fastattn.torch
    >>> print(fastattn.torch.status())  # doctest: +ELLIPSIS
    fastattn is not enabled in torch
    calls served by fastattn: ...
    """
    return Status(_is_active(), COUNTS.served, dict(COUNTS.declined), dict(ELSEWHERE))


def _is_active() -> bool:
    return bool(_registry.current_flash_attention_impl() == _NAME)
