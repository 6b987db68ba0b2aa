"""fastattn as an attention implementation of Hugging Face transformers, on the CPU.

`register` adds it under a name.  A model uses it if it is created with
``attn_implementation="fastattn"``, or after ``model.set_attn_implementation("fastattn")``.
Importing this module does not change transformers.

Arguments that transformers passes to an attention function, and those of `fastattn.attention`:

====================================  ============================================================
transformers' argument                argument of `fastattn.attention`
====================================  ============================================================
query (B, H, Lq, D), key, value       `q`, `k`, `v`; key heads are not repeated
scaling                               `scale`
attention_mask, boolean               `mask`: True is visible
attention_mask, floating              `mask`: added to the scores
attention_mask None                   ``causal=True, align="bottom_right"`` if the attention is
                                      causal
is_causal, else ``module.is_causal``  `causal`, only without a mask (a mask includes causality)
sliding_window                        `window`, if only it and causality mask keys; otherwise it
                                      is part of transformers' mask
softcap                               `softcap`
s_aux (H,)                            `sinks`
position_bias                         added to the scores, as part of `mask`
result (B, Lq, H, Dv), weights        `out`, written in this order of axes; None for the weights
dropout > 0, output_attentions,       refused: the `FastattnError` says what to do instead
cache (paged), indices,
block_indices, sinks (of each token)
====================================  ============================================================

`register` also adds a mask function.  It returns None, for which `align` is "bottom_right", if
only causality masks keys and the last query belongs to the last key.  transformers' own mask
function also returns None for an empty static cache, where "top_left" would be right.  For a
sliding window it returns a tensor whose elements are computed only when an operation reads them.

Examples
--------
>>> import torch
>>> from transformers import AutoModelForCausalLM, LlamaConfig
>>> import fastattn.transformers
>>> fastattn.transformers.register()
>>> config = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
...                      num_attention_heads=4, num_key_value_heads=2)
>>> model = AutoModelForCausalLM.from_config(config, attn_implementation="fastattn").eval()
>>> tokens = torch.arange(20)[None]
>>> with torch.inference_mode():
...     model(tokens).logits.shape
torch.Size([1, 20, 99])
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

from fastattn._errors import ArgumentError
from fastattn._interop import from_torch
from fastattn._normalise import normalise
from fastattn.torch import attention as traced_attention
from fastattn.torch._compute import arrays, solve

__all__ = ["register"]

# transformers looks for these in a name, and treats what it finds as its own implementation.
_TAKEN = ("eager", "sdpa", "flash", "flex", "paged")
# Keywords that change the result and that are not computed here: what they are, and the advice.
_EAGER = 'call model.set_attn_implementation("eager")'
_REFUSED = {
    "cache": ("a paged cache", 'use "sdpa" for continuous batching'),
    "output_attentions": ("a request for the weights, which are never stored", _EAGER),
    "indices": ("the keys that a sparse model selects", _EAGER),
    "block_indices": ("the blocks of keys that a sparse model selects", _EAGER),
    "sinks": ("a sink for each query; `s_aux` has one for each head", _EAGER),
}


class _Window(torch.Tensor):
    """A mask of which `window` and `align` say all; its elements are made when an op reads them.

    Boolean, (B, 1, Lq, Lk).
    """

    window: tuple[int, int]
    align: int
    made: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(
        cls,
        shape: tuple[int, ...],
        window: tuple[int, int],
        align: int,
        make: Callable[[], torch.Tensor],
    ) -> _Window:
        mask: _Window = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool)
        mask.window, mask.align, mask.made = window, align, functools.cache(make)
        return mask

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), keywords: Any = None
    ) -> Any:
        args, keywords = tree_map_only(cls, lambda mask: mask.made(), (args, keywords or {}))
        return op(*args, **keywords)


def register(name: str = "fastattn") -> None:
    """Add fastattn to transformers' attention implementations and mask functions.

    Parameters
    ----------
    name : str, default "fastattn"
        Name for ``from_pretrained(..., attn_implementation=name)`` and
        ``model.set_attn_implementation(name)``.  It must not contain the name of one of
        transformers' own implementations.

    Raises
    ------
    ArgumentError
        The name is refused.

    Notes
    -----
    fastattn computes inference only.  Call a model under ``torch.inference_mode()`` or
    ``torch.no_grad()``, as ``generate`` does; with tensors that require gradients, or dropout, a
    call raises ArgumentError.

    Examples
    --------
    >>> import fastattn.transformers
    >>> fastattn.transformers.register()
    """
    taken = [word for word in _TAKEN if word in name.lower()]
    if taken or not name:
        raise ArgumentError(
            "name",
            repr(name),
            f"a name without any of {', '.join(_TAKEN)}, which transformers takes for its own",
            'leave it out, for "fastattn"',
        )
    AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(name, _mask)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function: (B, Lq, H, Dv), contiguous, and no weights."""
    if dropout:
        raise ArgumentError(
            "dropout", str(dropout), "0", 'call model.eval(), or train with "sdpa" or "eager"'
        )
    for name, (received, fix) in _REFUSED.items():
        wanted = keywords.get(name)
        if wanted is not None and wanted is not False:
            raise ArgumentError(name, received, "None", fix)
    if query.device.type != "cpu":
        raise ArgumentError("query", f"a tensor on {query.device}", "the CPU", 'use "sdpa"')
    if torch.is_grad_enabled():
        _refuse_gradients(query, key, value, attention_mask, s_aux, position_bias)
    causal = attention_mask is None and _is_causal(module, is_causal)
    align: str | int | None = "bottom_right" if causal else None
    window = None
    if type(attention_mask) is _Window:
        if position_bias is None and attention_mask.shape[2:] == (query.shape[2], key.shape[2]):
            window, align = attention_mask.window, attention_mask.align
            attention_mask = None
        else:
            attention_mask = attention_mask.made()
    mask = _with_bias(attention_mask, position_bias)
    if mask is not None and mask.dtype not in (torch.bool, torch.float32):
        mask = mask.to(query.dtype)
    if torch.compiler.is_compiling():  # traced, as one node
        result = traced_attention(
            query,
            key,
            value,
            mask=mask,
            causal=causal,
            window=window,
            align=align,
            scale=scaling,
            softcap=softcap,
            sinks=s_aux,
        )
        return result.transpose(1, 2).contiguous(), None
    batch = max(query.shape[0], key.shape[0])  # learned queries may serve a whole batch
    out = query.new_empty((batch, query.shape[2], query.shape[1], value.shape[-1]))
    problem = normalise(
        *arrays(query, key, value),
        None if mask is None else from_torch(mask),
        causal,
        window,
        align,
        scaling,
        softcap,
        None,
        None if s_aux is None else from_torch(s_aux),
        False,
        from_torch(out.transpose(1, 2)),
    )
    solve(problem)
    return out, None


def _refuse_gradients(*tensors: torch.Tensor | None) -> None:
    if any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise ArgumentError(
            "query, key, value",
            "tensors that require gradients, which do not flow through this call",
            "inference",
            'call the model under torch.inference_mode(), or train with "sdpa" or "eager"',
        )


def _is_causal(module: torch.nn.Module, is_causal: bool | None) -> bool:
    """What holds without a mask.  Decoders can be configured to see both ways."""
    if is_causal is not None:
        return is_causal
    config = getattr(module, "config", None)
    return getattr(module, "is_causal", True) and getattr(config, "is_causal", True)


def _with_bias(mask: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor | None:
    """What is added to the scores, or where they are visible."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, -torch.inf)
    return bias + mask


def _mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **keywords: Any,
) -> torch.Tensor | None:
    """The mask function: boolean (B, 1, Lq, Lk), True where visible, or None for bottom right.

    `local_size` is the length of a window or of a chunk, which mask nothing before they end.  What
    may be skipped is all of the mask's definition but the padding.
    """
    make = functools.partial(
        sdpa_mask,
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        **keywords,
    )
    end = kv_offset + kv_length
    if torch.compiler.is_compiling() or not (  # it would read values
        attention_mask is None or _all_visible(attention_mask, kv_offset, end)
    ):
        return make()
    window = None
    if allow_is_causal_skip and end == q_offset + q_length:
        if local_size is None or end <= local_size:
            return None
        window = local_size - 1, 0
    elif allow_is_bidirectional_skip and local_size is not None and kv_length >= local_size:
        window = local_size, local_size
    if window is None or not _is_window(mask_function, *window):
        return make()
    return _Window((batch_size, 1, q_length, kv_length), window, int(q_offset) - kv_offset, make)


def _is_window(mask_function: Callable[..., Any], left: int, right: int) -> bool:
    """Whether it masks what such a window masks, for one query; chunks are of a size too."""
    zero = torch.zeros((), dtype=torch.long)
    keys = torch.arange(left + right + 4)
    query = zero + left + 2
    visible = mask_function(zero, zero, query, keys)
    return bool((visible == ((keys >= query - left) & (keys <= query + right))).all())


def _all_visible(padding: torch.Tensor, start: int, end: int) -> bool:
    return padding.shape[-1] >= end and bool(padding[:, start:end].all())
