"""What our op and torch's own attention share: gradients, memory, threads."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import get_num_threads  # looked up by name alone, for small calls
from torch.autograd import forward_ad

from fastattn._config import Config
from fastattn._errors import DTypeError
from fastattn._interop import from_torch, to_torch, torch_library
from fastattn._machine import native
from fastattn._plan import Plan, plan
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._threads import host_threading
from fastattn.implementations import cython_
from fastattn.masks import lowered_spec

__all__ = ["arrays", "as_tensor", "read", "refuse_gradients", "solve"]

_library = torch_library()
# Each step takes a part of a small call's time, so these are one step, where torch has it.
read: Callable[[Any], np.ndarray | None] = from_torch if _library is None else _library.to_ndarray
"""A plain CPU tensor as an ndarray; None, or an error, if there is none such."""
as_tensor: Callable[[np.ndarray], torch.Tensor] = (
    to_torch if _library is None else _library.from_ndarray
)
"""A result as a tensor: the same memory."""


def arrays(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CPU tensors as a kernel gets them, as ndarrays."""
    found = read(q), read(k), read(v)
    if found[0] is None or found[1] is None or found[2] is None:  # empty, or of an unknown type
        return from_torch(q), from_torch(k), from_torch(v)
    return found[0], found[1], found[2]


def solve(problem: Problem, impl: str = "auto", config: Config | None = None) -> None:
    """Compute a call, with at most torch's number of threads if `config` is None."""
    chosen = plan(problem.spec, impl, config)
    run, threads = chosen.run, chosen.config.threads
    if threads is not None and threads > 1:
        limit = get_num_threads()
        if config is None and threads > limit:
            chosen = plan(problem.spec, impl, _with_threads(limit))
        run = _on_torchs_threads(chosen, problem.spec)
    run(problem)


@functools.cache
def _with_threads(threads: int) -> Config:
    return Config(threads=threads)


@functools.lru_cache(maxsize=4096)
def _on_torchs_threads(chosen: Plan, spec: CallSpec) -> Callable[[Problem], None]:
    """What runs a plan on the threads that torch's own kernels run on, if that can be."""
    if (
        chosen.implementation.NAME == cython_.NAME
        and lowered_spec(spec, cython_.MASKS) is spec
        and _names_host()
        and (threading := host_threading()) is not None
    ):
        return cython_.prepare_on(threading, spec, chosen.config)
    return chosen.run


@functools.cache
def _names_host() -> bool:
    """Name torch's OpenMP runtime to the extension: whether there are both.

    It is whichever torch was linked with: its wheels have a copy of their own, by another name.
    """
    compiled, _ = native()
    if compiled is None or "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return False
    path = os.path.join(torch.__path__[0], "lib", "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)  # and what it was linked with
        functions = library.GOMP_parallel, library.omp_get_thread_num
    except (OSError, AttributeError):  # not here, not loaded, not on this system
        return False
    compiled.use_host(*(ctypes.cast(function, ctypes.c_void_p).value for function in functions))
    return True


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
