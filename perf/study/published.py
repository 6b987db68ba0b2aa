"""What was printed elsewhere: the study's Table 1, and the blog's test of torch's SDPA."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the study's Table 1: the configuration that its search chose, and seconds."""

    dim: int
    block: int
    threads: int
    numpy: float
    numba: float
    cython: float
    numba_speedup: float
    cython_speedup: float

    def speedup(self, impl: str) -> float:
        """Speed-up over NumPy as printed."""
        return {"numba": self.numba_speedup, "cython": self.cython_speedup}[impl]


STUDY_TITLE = "Benchmark adaptatif du mécanisme d'attention (Cournil, Deroo, Vong)"
STUDY_DTYPE = "float32"  # of every row
STUDY = {
    row.dim: row
    for row in (
        Row(64, 8, 2, 1.05e-04, 3.36e-05, 1.23e-04, 3.13, 0.85),
        Row(128, 16, 2, 1.00e-03, 3.36e-04, 2.87e-04, 2.99, 3.50),
        Row(256, 32, 4, 2.43e-03, 1.84e-03, 1.57e-03, 1.32, 1.55),
        Row(400, 64, 4, 6.98e-03, 3.73e-03, 4.25e-03, 1.87, 1.64),
        Row(512, 16, 1, 1.51e-02, 7.96e-03, 1.25e-02, 1.89, 1.21),
        Row(768, 32, 4, 4.41e-02, 1.66e-02, 3.22e-02, 2.66, 1.37),
        Row(1024, 32, 1, 1.31e-01, 4.16e-02, 1.19e-01, 3.16, 1.10),
    )
}

BLOG_TITLE = "SDPA introduction (Clay, 2024)"
BLOG_THREADS = 8
BLOG_SECONDS = {"torch-hand": 142.33e-6, "torch-sdpa": 88.38e-6}
