"""What is computed: one row per cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import common, roofline
from benchmarks.common import DIMS, WORKLOADS, Case, dim_case


@dataclass(frozen=True, slots=True)
class Cell:
    """A case, and what is special about it.

    Attributes
    ----------
    uniform : bool
        Inputs are uniform over [0, 1), not standard normal.
    agreement : float or None
        Every result must be this close to ours; None checks it against the oracle alone.
    """

    name: str
    case: Case
    uniform: bool = False
    agreement: float | None = None

    def inputs(self) -> tuple[Any, Any, Any]:
        """Q, k and v: the same in every process."""
        import numpy as np

        q, k, v = common.inputs(self.case)
        if not self.uniform:
            return q, k, v
        rng = np.random.default_rng(0)
        q, k, v = (rng.random(x.shape, dtype=x.dtype) for x in (q, k, v))
        return q, k, v

    @property
    def operations(self) -> int:
        """Useful floating-point operations: both products, for the keys that are seen."""
        return roofline.work(self.case)

    @property
    def keys_bytes(self) -> int:
        """Bytes of keys and values, which every implementation reads at least once."""
        return roofline.bytes_read(self.case)


SUFFIXES = {"float32": "", "float64": "-f64", "float16": "-f16", "bfloat16": "-bf16"}
SHAPES = {f"dim-{dim}": dim_case(dim, "float32") for dim in DIMS} | WORKLOADS
ROWS = (
    ("float32", tuple(SHAPES)),
    ("float64", ("dim-64", "small", "dim-512", "dim-1024", "prefill-2k")),
    *(
        (dtype, ("dim-512", "dim-1024", "bert", "prefill-2k", "causal-4k", "decode"))
        for dtype in ("bfloat16", "float16")
    ),
)

# The public test of torch's SDPA: batch 4, heads 2, length 100, head size 32, uniform inputs.
BLOG = Cell("blog", WORKLOADS["small"], uniform=True, agreement=1e-6)

CELLS = {
    cell.name: cell
    for cell in (
        BLOG,
        *(
            Cell(shape + SUFFIXES[dtype], SHAPES[shape].of(dtype))
            for dtype, shapes in ROWS
            for shape in shapes
        ),
    )
}
