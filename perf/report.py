"""Print the table of one commit, from asv's result files: ``python -m perf.report``.

Reads stored results, without measuring.  Exit status: 0 if every cell has a value or was skipped
for a reason, 1 if there are no results, 2 if a benchmark failed.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import IMPLS
from perf import conditions, entry, git
from perf.files import Reading
from perf.summary import geometric_mean

if TYPE_CHECKING:
    from rich.table import Table

RESULTS = Path(".asv/results")
WIDTH = 110  # columns, if the output is not a terminal

Values = dict[tuple[Any, ...], float | None]  # parameters -> value; NaN if skipped, None if failed


@dataclass(frozen=True, slots=True)
class Report:
    """Results of one commit, machine and environment.

    Attributes
    ----------
    values : mapping
        Cells by benchmark.
    versions : mapping
        Versions of the benchmarks that these numbers come from.
    warning : str or None
        Says that the commit's last run was contended, if it was.
    """

    commit: str
    machine: str
    python: str
    values: Mapping[str, Values]
    versions: Mapping[str, str | None] = field(default_factory=dict)
    warning: str | None = None

    def get(self, name: str, *parameters: Any) -> float | None:
        """Value of one cell; NaN if it was not measured, None if it failed."""
        return self.values.get(name, {}).get(parameters, math.nan)

    def rows(self, name: str) -> list[tuple[Any, ...]]:
        """Parameters of a benchmark's cells in order, without the implementation."""
        return list(dict.fromkeys((key[0], *key[2:]) for key in self.values.get(name, {})))

    def failed(self) -> list[str]:
        """Names of the benchmarks with a failed cell."""
        return [name for name, cells in self.values.items() if None in cells.values()]


def load(results: Path, commit: str, machine: str | None = None) -> Report | None:
    """Read the newest results of a commit; None if there are none."""
    paths = results.glob(f"{machine or '*'}/{commit[:8]}-*.json")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        with Reading(path):
            file = json.loads(path.read_text(encoding="utf-8"))
            if file["commit_hash"] != commit:
                continue
            values, versions = {}, {}
            for name, row in file["results"].items():
                columns = dict(zip(file["result_columns"], row, strict=False))
                values[name] = _cells(columns["result"], columns["params"])
                versions[name] = columns.get("version")
            name, python = file["params"]["machine"], file["python"]
        runs = conditions.load(results, name, commit)
        warning = conditions.warning(runs[-1]) if runs else None
        return Report(commit, name, python, values, versions, warning)
    return None


def _cells(result: list[float | None] | None, params: list[list[str]]) -> Values:
    keys = list(itertools.product(*(map(ast.literal_eval, values) for values in params)))
    return dict(zip(keys, result or [None] * len(keys), strict=True))


def attention_table(report: Report, name: str, title: str, first: str) -> Table:
    """Time, speed-up, variation: a row for each case and data type, columns by implementation."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first)
    table.add_column("dtype")
    others = [impl for impl in IMPLS if impl != "numpy"]
    for impl in IMPLS:
        table.add_column(f"{impl}\ntime", justify="right")
    for impl in others:
        table.add_column(f"{impl}\nspeed-up", justify="right")
    for impl in IMPLS:
        table.add_column(f"{impl}\nCV", justify="right")
    for case, dtype in report.rows(f"{name}.track_time"):
        times = [report.get(f"{name}.track_time", case, impl, dtype) for impl in IMPLS]
        if all(time is not None and math.isnan(time) for time in times):
            continue  # not in the profile

        def cell(track: str, impl: str, case: Any = case, dtype: str = dtype) -> float | None:
            return report.get(f"{name}.{track}", case, impl, dtype)

        table.add_row(
            str(case),
            dtype,
            *(show(time, seconds) for time in times),
            *(show(cell("track_speedup", impl), speedup) for impl in others),
            *(show(cell("track_variation", impl), percent) for impl in IMPLS),
        )
    return table


def summary_table(report: Report) -> Table:
    """What comes to one number for each implementation."""
    from rich import box
    from rich.table import Table

    table = Table(title="Summary", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for impl in IMPLS:
        table.add_column(impl, justify="right")
    speedups = report.values.get("bench_attention.DimGrid.track_speedup", {})
    for dtype in dict.fromkeys(key[2] for key in speedups):
        means = (_mean(v for k, v in speedups.items() if k[1:] == (impl, dtype)) for impl in IMPLS)
        table.add_row(f"speed-up over dims, {dtype}", *(show(mean, speedup) for mean in means))
    errors = report.values.get("bench_attention.DimGrid.track_error", {})
    if errors:
        worst = (_worst(v for k, v in errors.items() if k[1] == impl) for impl in IMPLS)
        table.add_row(
            "largest error over the plain computation's", *(show(error, ratio) for error in worst)
        )
    smallest = "bench_overhead.Call.track_time"
    if smallest in report.values:
        table.add_row(
            "time of the smallest call",
            *(show(report.get(smallest, impl), seconds) for impl in IMPLS),
        )
    memory = "bench_memory.Workloads.track_extra_memory"
    for (workload,) in report.rows(memory)[-1:]:
        extra = (report.get(memory, workload, impl) for impl in IMPLS)
        table.add_row(
            f"memory beyond inputs and result, {workload}",
            *(show(size, mebibytes) for size in extra),
        )
    first_call = report.values.get("bench_overhead.FirstCall.track_time", {})
    for (cache, dtype), value in first_call.items():
        table.add_row(
            f"time of the first call, {cache} cache, {dtype}", "", show(value, seconds), ""
        )
    return table


def roofline_table(report: Report) -> Table:
    """Fraction of peak, and time over the unmasked time: one row per regime."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Fraction of the machine's peak, one thread",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("regime")
    impls: dict[Any, None] = {}
    for name in ("Regimes", "Masked"):
        cells = report.values.get(f"bench_roofline.{name}.track_time_over_peak", {})
        impls |= dict.fromkeys(key[1] for key in cells)
    for impl in impls:
        table.add_column(f"{impl}\nfraction of peak", justify="right")
    for impl in impls:
        table.add_column(f"{impl}\ntime over unmasked", justify="right")
    for name in ("Regimes", "Masked"):
        track = f"bench_roofline.{name}.track_time"
        for (regime,) in report.rows(f"{track}_over_peak"):
            peaks = (report.get(f"{track}_over_peak", regime, impl) for impl in impls)
            masked = (report.get(f"{track}_over_unmasked", regime, impl) for impl in impls)
            table.add_row(
                regime, *(show(peak, inverse) for peak in peaks), *(show(m, ratio) for m in masked)
            )
    return table


def tuner_table(report: Report) -> Table:
    """What the tuner found: one row per dim."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Genetic tuner, study's space, all CPUs", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("dim")
    columns: dict[str, tuple[str, Any]] = {
        "time_over_default": ("time over\ndefault", ratio),
        "time_over_best": ("time over\nbest", ratio),
        "block": ("block", int),
        "threads": ("threads", int),
        "dtype_bits": ("bits", int),
        "evaluations": ("points\nmeasured", int),
        "tuning_time": ("search\ntime", seconds),
    }
    for title, _ in columns.values():
        table.add_column(title, justify="right")
    name = "bench_tuner.Genetic.track_"
    for (dim,) in report.rows(f"{name}block"):
        cells = (show(report.get(name + key, dim), form) for key, (_, form) in columns.items())
        table.add_row(str(dim), *cells)
    return table


def show(value: float | None, form: Any) -> str:
    """A value as text; a dash if it was skipped or not measured."""
    if value is None:
        return "[bold red]failed[/]"
    return "-" if math.isnan(value) else str(form(value))


def seconds(value: float) -> str:
    """A time with three digits and a unit."""
    exponent = min(0, max(-3, math.floor(math.log10(value) / 3))) if value > 0 else 0
    scaled = value / 1000.0**exponent
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f} {('s', 'ms', 'µs', 'ns')[-exponent]}"


def speedup(value: float) -> str:
    """A speed-up, green from 1 up."""
    return f"[{'green' if value >= 1 else 'red'}]{value:.2f}x[/]"


def ratio(value: float) -> str:
    """A ratio, without a verdict."""
    return f"{value:.2f}x"


def inverse(value: float) -> str:
    """Percentage of the peak, from the time over the peak's."""
    return percent(1 / value)


def percent(value: float) -> str:
    """A percentage with one decimal."""
    return f"{100 * value:.1f} %"


def mebibytes(value: float) -> str:
    """A size in MiB with one decimal."""
    return f"{value / 2**20:.1f} MiB"


def _mean(values: Iterable[float | None]) -> float | None:
    """Geometric mean of what was measured."""
    found = list(values)
    if None in found:
        return None
    finite = [v for v in found if v is not None and math.isfinite(v)]
    return geometric_mean(finite)


def _worst(values: Iterable[float | None]) -> float | None:
    found = list(values)
    if None in found:
        return None
    return max((v for v in found if v is not None and math.isfinite(v)), default=math.nan)


def render(report: Report) -> int:
    """Print a report, and return the exit status of the command."""
    console = _console()
    dims = attention_table(
        report, "bench_attention.DimGrid", "Attention, q, k and v dim x dim, one thread", "dim"
    )
    shapes = attention_table(
        report,
        "bench_attention.Workloads",
        "Workloads, one thread",
        "workload",
    )
    console.print()
    tables = (dims, shapes, roofline_table(report), tuner_table(report), summary_table(report))
    for table in tables:
        if table.row_count:
            console.print(table)
    console.print(
        "Time: median of the samples. Speed-up: time of numpy over the time of the "
        "implementation, sampled alternately in one process."
        "\nCV, coefficient of variation: standard deviation of the samples over their mean, within "
        "a process."
        "\nFraction of peak: shortest time that the machine's arithmetic (FMA or bfloat16 "
        "products) and memory allow, over the measured time."
    )
    console.print(f"Commit {report.commit[:8]}, {report.machine}, Python {report.python}.")
    if report.warning:
        console.print(f"[bold yellow]{report.warning}[/]")
    failed = report.failed()
    for name in failed:
        console.print(f"[bold red]failed[/] {name}")
    return 2 if failed else 0


def _console() -> Any:
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the table comes after minutes of measuring
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m perf.report", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="commit, default HEAD")
    parser.add_argument("--machine", help="name of a machine, default the newest results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default %(default)s")
    arguments = parser.parse_args()
    commit = git.commit(arguments.revision)
    report = load(arguments.results, commit, arguments.machine)
    if report is None:
        print(f"No results of {commit[:8]} in {arguments.results}: run `make bench` first.")
        return 1
    return render(report)


if __name__ == "__main__":
    entry.run(main)
