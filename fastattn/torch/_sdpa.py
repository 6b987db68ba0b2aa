"""torch's ``scaled_dot_product_attention`` on the CPU, computed by fastattn.

torch calls one dispatcher op for it.  torch's registry of attention implementations replaces that
op's kernel by ours, and restores it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy import empty, float32, float64  # looked up by name alone, for small calls
from torch.nn import attention as registry

from fastattn._errors import FastattnError
from fastattn._interop import from_torch
from fastattn._normalise import normalise
from fastattn.torch._compute import arrays, as_tensor, solve
from fastattn.torch._status import COUNTS, ELSEWHERE, Status

__all__ = ["disable", "enable", "enabled", "status"]

_NAME = "fastattn"
_OP = "_scaled_dot_product_flash_attention_for_cpu"


class _Override:
    """Replaces the op's kernel until `remove`; calls that it declines go to the previous kernel."""

    def __init__(self) -> None:
        self._before = torch.library.get_kernel(f"aten::{_OP}", "CPU")
        self._library: Any = torch.library.Library("aten", "IMPL", "CPU")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells that a kernel is replaced: it is meant to
            self._library.impl(_OP, self._forward, with_keyset=True)

    def remove(self) -> None:
        """Put the kernel back that was there before."""
        self._library = None  # torch takes back what a library registered when nobody holds it

    def _forward(
        self,
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
        reason = None
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
        result: tuple[torch.Tensor, torch.Tensor] = self._before.call_boxed(
            keys, query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
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


registry.register_flash_attention_impl(_NAME, register_fn=_Override)


def enable() -> None:
    """Make torch's ``scaled_dot_product_attention`` call fastattn for CPU tensors.

    This holds for the whole process, compiled and exported modules included, in float32, float64,
    float16 and bfloat16.  Training works, with torch's own backward pass.  Calls that fastattn
    cannot compute are passed on to torch's own kernel; `status` counts them.  A call uses at most
    ``torch.get_num_threads()`` threads.

    torch has one active implementation of attention at a time: another one in its registry, such as
    FA4 on CUDA, is deactivated.

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
        registry.activate_flash_attention_impl(_NAME)


def disable() -> None:
    """Restore torch's own ``scaled_dot_product_attention``, if `enable` has replaced it.

    Examples
    --------
    >>> import fastattn.torch
    >>> fastattn.torch.disable()
    """
    if _is_active():
        registry.restore_flash_attention_impl()


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
    before = registry.current_flash_attention_impl()
    enable()
    try:
        yield
    finally:
        if before is None:
            disable()
        elif before != _NAME:
            registry.activate_flash_attention_impl(before)


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
    return bool(registry.current_flash_attention_impl() == _NAME)
