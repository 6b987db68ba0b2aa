"""What is compared: the cases of the asv benchmarks, taken from their classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import bench_attention, bench_overhead, bench_roofline, common
from benchmarks.common import Case

# A case that several of these have is compared once, under the first one's name.
BENCHMARKS = (
    bench_overhead.Call,
    bench_attention.DimGrid,
    bench_attention.Workloads,
    bench_roofline.Masked,
    bench_roofline.Regimes,
)


@dataclass(frozen=True, slots=True)
class Suite:
    """A selection of cells.

    Attributes
    ----------
    profile : str
        Profile that the cases come from.
    impls : tuple of str
        Implementations, if the command names none.
    cells : tuple of str
        Names without the implementation; () means all of the profile's.
    seconds : float or None
        Time limit of the rounds, if the command sets none.
    """

    profile: str
    impls: tuple[str, ...]
    cells: tuple[str, ...] = ()
    seconds: float | None = None


SUITES = {
    # One of each kind: overhead, tiles alone, blocks, other types, encoder, few rows, masks.
    "smoke": Suite(
        "standard",
        ("cython",),
        (
            "Call smallest call",
            "DimGrid 64 float32",
            "DimGrid 256 float32",
            "DimGrid 512 float32",
            "DimGrid 256 float64",
            "DimGrid 512 bfloat16",
            "Workloads small float32",
            "Workloads decode float32",
            "Masked blocks-2k",
        ),
        seconds=360.0,
    ),
    "standard": Suite("standard", ("cython",)),
    "full": Suite("full", ("cython", "numba")),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A case of an asv benchmark, in one implementation."""

    benchmark: str
    case: Case
    impl: str

    @property
    def name(self) -> str:
        """Class, parameters and implementation, in asv's order, in words."""
        return f"{self.benchmark} {self.impl}"


def cells(
    suite: Suite, impls: Sequence[str] | None = None, pattern: str | None = None
) -> dict[str, Cell]:
    """Cells of a suite by name; `pattern` is a regular expression to search for in the name."""
    profile = common.PROFILES[suite.profile]
    cases: dict[str, Case] = {}
    for benchmark in BENCHMARKS:
        for key, case in benchmark.cases(profile).items():
            values = key if isinstance(key, tuple) else (key,)
            if case not in cases.values():
                cases[" ".join((benchmark.__name__, *map(str, values)))] = case
    named = {name: cases[name] for name in suite.cells or cases}
    found = (Cell(name, case, i) for name, case in named.items() for i in impls or suite.impls)
    return {c.name: c for c in found if pattern is None or re.search(pattern, c.name)}
