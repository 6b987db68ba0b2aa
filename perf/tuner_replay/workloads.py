"""What is recorded: problems by name, and on which of them hyperparameters may be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import common
from benchmarks.common import Case

__all__ = ["HELD_OUT", "TUNING", "WORKLOADS", "Workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """A problem, and the space that is searched for it."""

    space: str
    case: Case

    @property
    def shape(self) -> tuple[int, ...]:
        """B, Hq, Hkv, Lq, Lk, D."""
        c = self.case
        return (c.batch, c.heads_q, c.heads_kv, c.length_q, c.length_k, c.dim)

    def described(self) -> dict[str, Any]:
        """The problem as it stands in a table's metadata."""
        return {"shape": list(self.shape), "dtype": self.case.dtype, "causal": self.case.causal}


_KERNEL = {
    "small": common.WORKLOADS["small"],
    "vit": common.WORKLOADS["vit"],
    "prefill-1k": Case(1, 2, 2, 1024, 1024, 64),
    "wide-1k": Case(1, 1, 1, 1024, 1024, 128),
    "decode": common.WORKLOADS["decode"],
    "few-rows": Case(1, 16, 4, 4, 2048, 128),
    "dim-256": common.dim_case(256, "float32"),
    "dim-512": common.dim_case(512, "float32"),
    "vit-float64": common.WORKLOADS["vit"].of("float64"),
}
WORKLOADS = {
    # The data type is a gene there, and this one is the default's.
    **{f"study-{dim}": Workload("study", common.dim_case(dim, "float32")) for dim in common.DIMS},
    **{f"kernel-{name}": Workload("kernel", case) for name, case in _KERNEL.items()},
}
# Hyperparameters of strategies, ours and the rivals', are chosen on TUNING; claims about the
# strategies rest on HELD_OUT.  A table that was looked at for a choice stays in TUNING for good.
TUNING = (
    *("study-256", "study-512", "study-768", "study-1024"),
    *("kernel-small", "kernel-prefill-1k", "kernel-decode", "kernel-dim-512"),
)
HELD_OUT = tuple(name for name in WORKLOADS if name not in TUNING)
