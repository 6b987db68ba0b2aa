"""The ops ``fastattn::attention`` and ``fastattn::attention_with_lse``, and their public function.

There are two ops because an op always has the same number of results.  An argument of the public
function that has several types is an argument of the op for each type, because ops are typed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from fastattn._config import Config
from fastattn._errors import DTypeError
from fastattn._interop import from_torch
from fastattn._normalise import normalise
from fastattn._problem import Problem
from fastattn.torch._compute import arrays, as_tensor, refuse_gradients, solve
from fastattn.torch._direct import plain_arrays
from fastattn.torch._vmap import batched

__all__ = ["attention"]

_ARGUMENTS = (
    "(Tensor q, Tensor k, Tensor v, Tensor? mask=None, Tensor? sinks=None, "
    "Tensor? kv_lengths=None, Tensor? positions=None, *, bool causal=False, float? scale=None, "
    "float? softcap=None, SymInt? left=None, SymInt? right=None, str? align=None, "
    "SymInt? position=None, SymInt? length=None, str impl='auto', str config='')"
)
_library = torch.library.Library("fastattn", "DEF")


class _Options(TypedDict, total=False):
    """Keywords that the overloads of `attention` share."""

    mask: torch.Tensor | None
    causal: bool
    window: tuple[int | None, int | None] | None
    align: str | int | torch.Tensor | None
    scale: float | None
    softcap: float | None
    kv_lengths: int | torch.Tensor | None
    sinks: torch.Tensor | None
    impl: str
    config: Config | None


@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    return_lse: Literal[False] = ...,
    **options: Unpack[_Options],
) -> torch.Tensor: ...
@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    return_lse: Literal[True],
    **options: Unpack[_Options],
) -> tuple[torch.Tensor, torch.Tensor]: ...
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    align: str | int | torch.Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    kv_lengths: int | torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    return_lse: bool = False,
    impl: str = "auto",
    config: Config | None = None,
) -> Any:
    """`fastattn.attention` of CPU tensors, as an op that torch can trace.

    It is one node of a compiled or exported module, follows ``torch.autocast`` and supports
    ``torch.vmap``.  It has no derivatives yet.

    Parameters
    ----------
    q, k, v : Tensor
        (..., Hq, Lq, D), (..., Hkv, Lk, D) and (..., Hkv, Lk, Dv), with the axes of
        `fastattn.attention`.  Data type float32, float64, float16 or bfloat16, the same for all
        three; any strides.
    mask, causal, window, align, scale, softcap, kv_lengths, sinks, return_lse, impl
        As for `fastattn.attention`, with tensors in place of arrays.
    config : Config, optional
        As for `fastattn.attention`.  With None, a call uses at most ``torch.get_num_threads()``
        threads.

    Returns
    -------
    out : Tensor, (..., Hq, Lq, Dv)
        In q's data type.
    lse : Tensor, (..., Hq, Lq)
        Only with `return_lse`: log-sum-exp of the scores, float64 for float64 inputs, else float32.

    Raises
    ------
    FastattnError
        As for `fastattn.attention`.  DTypeError for a tensor that requires gradients, or that is
        not on the CPU.

    Notes
    -----
    The error is bounded as for `fastattn.attention`.

    Examples
    --------
    >>> import torch, fastattn.torch
    >>> q = torch.randn(2, 8, 1, 64)  # one new token, with a window, a cap and sinks
    >>> k, v = torch.randn(2, 2, 2, 100, 64)  # 2 key heads
    >>> fastattn.torch.attention(
    ...     q, k, v, window=(63, 0), align="bottom_right", softcap=30.0, sinks=torch.zeros(8)
    ... ).shape
    torch.Size([2, 8, 1, 64])
    """
    refuse_gradients(q, k, v, mask, sinks)  # here too: transforms hide it from the kernel
    if (found := plain_arrays(q, k, v, mask, align, kv_lengths, sinks)) is not None:
        q, k, v, mask, align, kv_lengths, sinks = found
        problem = normalise(
            q, k, v, mask, causal, window, align, scale, softcap, kv_lengths, sinks, return_lse
        )
        solve(problem, impl, config)
        out = as_tensor(problem.out)
        return out if problem.lse is None else (out, as_tensor(problem.lse))
    options: dict[str, Any] = {}
    if mask is not None:
        options["mask"] = mask
    if sinks is not None:
        options["sinks"] = sinks
    if causal:
        options["causal"] = causal
    if window is not None:
        options["left"], options["right"] = window
    if align is not None:
        name = "align" if isinstance(align, str) else "position"
        options["positions" if isinstance(align, torch.Tensor) else name] = align
    if scale is not None:
        options["scale"] = scale
    if softcap is not None:
        options["softcap"] = softcap
    if kv_lengths is not None:
        options["kv_lengths" if isinstance(kv_lengths, torch.Tensor) else "length"] = kv_lengths
    if impl != "auto":
        options["impl"] = impl
    if config is not None:
        options["config"] = _text(config)
    return (_with_lse if return_lse else _plain)(q, k, v, **options)


def _problem(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    kv_lengths: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    left: int | None = None,
    right: int | None = None,
    align: str | None = None,
    position: int | None = None,
    length: int | None = None,
    impl: str = "auto",
    config: str = "",
    return_lse: bool = False,
) -> Problem:
    """Compute the call of an op."""
    refuse_gradients(q, k, v, mask, sinks)
    problem = normalise(
        *arrays(q, k, v),
        None if mask is None else from_torch(mask),
        causal,
        None if left is None and right is None else (left, right),
        (align if position is None else position) if positions is None else from_torch(positions),
        scale,
        softcap,
        length if kv_lengths is None else from_torch(kv_lengths),
        None if sinks is None else from_torch(sinks),
        return_lse,
    )
    solve(problem, impl, _config(config) if config else None)
    return problem


def _cpu(*tensors: Any, **options: Any) -> Any:
    return as_tensor(_problem(*tensors, **options).out)


def _cpu_with_lse(*tensors: Any, **options: Any) -> Any:
    problem = _problem(*tensors, **options, return_lse=True)
    assert problem.lse is not None
    return as_tensor(problem.out), as_tensor(problem.lse)


def _elsewhere(q: torch.Tensor, *tensors: Any, **options: Any) -> Any:
    raise DTypeError(
        "q, k, v",
        f"a tensor of layout {q.layout} on the device {q.device}",
        "dense CPU tensors",
        "copy it with .cpu(), or make it dense with .to_dense()",
    )


def _fake(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    torch._check(q.shape[-1] == k.shape[-1], lambda: "q and k have the same last axis D")
    torch._check(k.shape[-2] == v.shape[-2], lambda: "k and v have the same number of keys")
    batch = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    heads = q.shape[-3:-2]  # none, if q is 2-D
    return q.new_empty((*batch, *heads, q.shape[-2], v.shape[-1]))


def _fake_with_lse(*tensors: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out = _fake(*tensors, **options)
    dtype = torch.float64 if out.dtype == torch.float64 else torch.float32
    return out, out.new_empty(out.shape[:-1], dtype=dtype)


def _autocast(
    op: Callable[..., Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    *tensors: Any,
    **options: Any,
) -> Any:
    """Cast q, k and v as torch casts those of its own attention: float64 stays as it is."""
    dtype = torch.get_autocast_dtype("cpu")
    q, k, v = (
        x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in (q, k, v)
    )
    if mask is not None and mask.is_floating_point() and mask.dtype not in (q.dtype, torch.float64):
        mask = mask.to(torch.float32)
    with torch.autocast("cpu", enabled=False):
        return op(q, k, v, mask, *tensors, **options)


def _text(config: Config) -> str:
    """A configuration as an op takes it: "threads=2,isa=avx2"."""
    fields: dict[str, Any] = config.explicit()
    if config.deterministic:
        fields["deterministic"] = True
    return ",".join(f"{name}={value}" for name, value in fields.items())


@functools.lru_cache(maxsize=256)
def _config(text: str) -> Config:
    fields: dict[str, Any] = {}
    for field in text.split(","):
        name, _, value = field.partition("=")
        fields[name] = int(value) if value.isdecimal() else value
    return Config(**(fields | ({"deterministic": True} if "deterministic" in fields else {})))


def _defined(name: str, results: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an op, with its kernels; the op."""
    _library.define(
        f"{name}{_ARGUMENTS} -> {results}",
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
    )
    op = getattr(torch.ops.fastattn, name).default
    _library.impl(name, cpu, "CPU")
    _library.impl(name, _elsewhere, "CompositeExplicitAutograd")
    _library.impl(name, functools.partial(_autocast, op), "AutocastCPU")
    torch.library.register_fake(f"fastattn::{name}", fake, lib=_library)
    torch.library.register_vmap(f"fastattn::{name}", functools.partial(batched, op), lib=_library)
    return op


_plain = _defined("attention", "Tensor", _cpu, _fake)
_with_lse = _defined("attention_with_lse", "(Tensor, Tensor)", _cpu_with_lse, _fake_with_lse)
