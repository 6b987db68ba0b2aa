"""The way around torch's dispatcher, for calls of which nobody but the caller takes note.

An op is what torch traces, transforms, casts for and records.  Where none of that happens, calling
the op would do nothing but take time, several times that of a small call.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._C import (
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._autograd import _profiler_enabled
from torch._C._functorch import maybe_current_level
from torch.compiler import is_compiling

from fastattn.torch._compute import read

__all__ = ["plain_arrays"]


def plain_arrays(q: Any, k: Any, v: Any, *others: Any) -> tuple[Any, ...] | None:
    """The arguments of a call with ndarrays for its tensors, or None if it has to be an op.

    A plain CPU tensor is read in place.  `others` may be None, numbers and text, which stay.
    """
    if not (type(q) is type(k) is type(v) is Tensor) or _is_noticed():
        return None
    try:
        if q.is_neg() or k.is_neg() or v.is_neg():  # of what is in memory
            return None
        found = [read(q), read(k), read(v)]
        for value in others:
            if value is not None and isinstance(value, Tensor):
                if type(value) is not Tensor or value.is_neg():
                    return None
                value = read(value)
                if value is None:
                    return None
            found.append(value)
    except (RuntimeError, TypeError, BufferError):  # one without memory, such as a wrapper
        return None
    return None if found[0] is None or found[1] is None or found[2] is None else tuple(found)


def _is_noticed() -> bool:
    """Whether an op, if called now, would do more than compute."""
    return (
        is_compiling()
        or _len_torch_function_stack() > 0
        or _len_torch_dispatch_stack() > 0  # fake tensors, tracing, modes of users
        or _is_any_autocast_enabled()
        or maybe_current_level() is not None  # vmap, grad, jvp, functionalize
        or _get_tracing_state() is not None  # torch.jit.trace
        or _profiler_enabled()
    )
