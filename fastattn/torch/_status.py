"""Counts of torch's attention calls, and the calls that torch never passes to fastattn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

__all__ = ["COUNTS", "ELSEWHERE", "Counts", "Status"]

ELSEWHERE = {
    "5-D inputs": "flatten the batch axes with x.flatten(0, 1)",
    "values whose head size differs from that of the queries": "fastattn.torch.attention",
    "batch axes that broadcast": "expand them, or use fastattn.torch.attention",
    "a mask with three axes": "mask[None], or mask[:, None] if its first axis is the batch",
    "a mask that requires gradients": "nothing: only torch's own implementation has its gradient",
    "dropout_p above 0": "model.eval(), or dropout_p=0",
    "a last axis whose stride is not 1": "x.contiguous()",
    "no queries, or no keys": "nothing: there is nothing to compute",
    "nested tensors": "padded tensors with a mask, or fastattn.torch.attention with kv_lengths",
    "sdpa_kernel(SDPBackend.MATH)": "do not select this backend",
    "nn.MultiheadAttention and nn.TransformerEncoderLayer in eval mode, self-attention": (
        "torch.backends.mha.set_fastpath_enabled(False)"
    ),
    "need_weights=True of nn.MultiheadAttention": "need_weights=False",
    "AOTInductor and Inductor's cpp_wrapper": "nothing: they call torch's kernel directly",
}
"""Calls of ``scaled_dot_product_attention`` that never reach fastattn, and what to do."""
if torch.__version__ < (2, 14):
    ELSEWHERE["3-D inputs (H, L, D), before torch 2.14"] = "x[None], and [0] of the result"
if torch.__version__ < (2, 9):
    ELSEWHERE["fewer key heads than query heads, before torch 2.9"] = (
        "repeat them, k.repeat_interleave(Hq // Hkv, 1), or use fastattn.torch.attention"
    )


@dataclass(slots=True)
class Counts:
    """Numbers of calls since the import; `declined` by reason."""

    served: int
    declined: Counter[str]


COUNTS = Counts(0, Counter())


@dataclass(frozen=True, slots=True)
class Status:
    """Who computed torch's attention calls; ``print`` shows it as text.

    Attributes
    ----------
    enabled : bool
        Whether torch's calls go to fastattn.
    served : int
        Number of calls that fastattn has computed since the import.
    declined : dict of str to int
        Numbers of calls that fastattn passed on to torch's own kernel, by reason.
    elsewhere : dict of str to str
        Calls that torch never passes to fastattn, and what to do about each.
    """

    enabled: bool
    served: int
    declined: dict[str, int]
    elsewhere: dict[str, str]

    def __str__(self) -> str:
        rows = [
            f"fastattn is {'enabled' if self.enabled else 'not enabled'} in torch",
            f"calls served by fastattn: {self.served}",
            f"calls passed on to torch's own kernel: {sum(self.declined.values())}",
            *(f"  {number} x {reason}" for reason, number in self.declined.items()),
            "calls that torch never passes to fastattn, and what to do:",
            *(f"  {what}: {remedy}" for what, remedy in self.elsewhere.items()),
        ]
        return "\n".join(rows)
