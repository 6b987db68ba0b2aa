"""What was served, and what never comes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

__all__ = ["COUNTS", "ELSEWHERE", "Counts", "Status"]

ELSEWHERE = {
    "3-D inputs (H, L, D)": "x[None], and [0] of the result: torch takes 4-D inputs only",
    "5-D inputs": "flatten the batch axes with x.flatten(0, 1)",
    "values of another head size than queries": "fastattn.torch.attention",
    "batch axes that broadcast": "expand them, or fastattn.torch.attention",
    "a mask of three axes": "mask[None], or mask[:, None] for one of each batch entry",
    "a mask that requires gradients": "torch's own path is the only one",
    "dropout_p above 0": "model.eval(), or dropout_p=0",
    "a last axis whose stride is not 1": "x.contiguous()",
    "no queries, or no keys": "nothing to compute",
    "nested tensors": "padded tensors with a mask, or fastattn.torch.attention with kv_lengths",
    "sdpa_kernel(SDPBackend.MATH)": "leave it out",
    "nn.MultiheadAttention and nn.TransformerEncoderLayer in eval mode, self-attention": (
        "torch.backends.mha.set_fastpath_enabled(False)"
    ),
    "need_weights=True of nn.MultiheadAttention": "need_weights=False",
    "AOTInductor and Inductor's cpp_wrapper": "they call torch's kernel directly",
}
"""Calls of ``scaled_dot_product_attention`` that torch computes by other means, and what to do."""


@dataclass(slots=True)
class Counts:
    """Calls since the import; `declined` by reason."""

    served: int
    declined: Counter[str]


COUNTS = Counts(0, Counter())


@dataclass(frozen=True, slots=True)
class Status:
    """What became of torch's attention calls; ``print`` it to read it.

    Attributes
    ----------
    enabled : bool
        Whether torch brings its calls here.
    served : int
        Calls that fastattn has computed since the import.
    declined : dict of str to int
        Calls that came and were handed on to torch's own kernel, by reason.
    elsewhere : dict of str to str
        Calls that torch never brings, and what to do about each.
    """

    enabled: bool
    served: int
    declined: dict[str, int]
    elsewhere: dict[str, str]

    def __str__(self) -> str:
        rows = [
            f"fastattn is {'enabled' if self.enabled else 'not enabled'} in torch",
            f"served    {self.served} calls",
            f"declined  {sum(self.declined.values())} calls, computed by torch's own kernel",
            *(f"  {number} x {reason}" for reason, number in self.declined.items()),
            "never brought here by torch:",
            *(f"  {what}: {remedy}" for what, remedy in self.elsewhere.items()),
        ]
        return "\n".join(rows)
