"""What our op and torch's own attention share: gradients, memory, threads."""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import numpy as np
import torch
from torch import bfloat16, int16  # looked up by name alone, for small calls
from torch.autograd import forward_ad

from fastattn._config import Config
from fastattn._errors import DTypeError
from fastattn._interop import bfloat16_dtype, from_torch
from fastattn._plan import plan
from fastattn._problem import Problem

__all__ = ["arrays", "refuse_gradients", "solve"]


def arrays(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same memory as ndarrays, in few steps: each takes a tenth of a small call's time."""
    try:
        if q.dtype is not bfloat16:
            return q.numpy(), k.numpy(), v.numpy()
        if k.dtype is v.dtype is bfloat16:
            dtype = bfloat16_dtype()
            return (
                q.view(int16).numpy().view(dtype),
                k.view(int16).numpy().view(dtype),
                v.view(int16).numpy().view(dtype),
            )
    except (RuntimeError, TypeError):  # one requires gradients, or is bfloat16
        pass
    return from_torch(q), from_torch(k), from_torch(v)


def solve(problem: Problem, impl: str = "auto", config: Config | None = None) -> None:
    """Compute a call, with at most torch's number of threads if `config` is None."""
    chosen = plan(problem.spec, impl, config)
    if config is None:
        threads, limit = chosen.config.threads, torch.get_num_threads()
        if threads is not None and threads > limit:
            chosen = plan(problem.spec, impl, _with_threads(limit))
    chosen.run(problem)


@functools.cache
def _with_threads(threads: int) -> Config:
    return Config(threads=threads)


def refuse_gradients(q: Any, k: Any, v: Any, mask: Any = None, sinks: Any = None) -> None:
    """DTypeError if derivatives of a tensor are wanted, backward or forward."""
    if (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or (mask is not None and mask.requires_grad)
        or (sinks is not None and sinks.requires_grad)
    ) and torch.is_grad_enabled():
        _refuse()
    if forward_ad._current_level >= 0:
        for tensor in (q, k, v, mask, sinks):
            if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
                _refuse()


def _refuse() -> NoReturn:
    raise DTypeError(
        "q, k, v, mask, sinks",
        "a tensor that requires gradients, which this op does not have",
        "tensors that require none",
        "pass tensor.detach(), call under torch.no_grad(), or train with torch's "
        "scaled_dot_product_attention and fastattn.torch.enable()",
    )
