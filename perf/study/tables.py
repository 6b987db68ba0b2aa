"""Tables, and the answer in a few numbers, as text for the page and for Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import conditions
from benchmarks.common import IMPLS
from perf.peers.results import Results
from perf.study import formats
from perf.study.data import Record
from perf.study.formats import NAMES, NOTHING
from perf.study.published import BLOG_SECONDS, BLOG_THREADS, STUDY, STUDY_DTYPE
from perf.summary import Estimate, geometric_mean

OTHERS = IMPLS[1:]  # those with a speed-up


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names the row.

    Attributes
    ----------
    caption : str
    columns : tuple of str
    rows : tuple of tuple of str
    marked : frozenset of int
        Rows that were contended.
    best : frozenset of (int, int)
        Row and column of each entry that stands out.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that answers the question, what it means, and whether its run was contended."""

    number: str
    meaning: str
    contended: bool = False


def answer(record: Record) -> str:
    """The answer in a sentence."""
    dims = record.dims()
    if not dims:
        return "Nothing was measured yet."
    best = [dim for dim in dims if _fastest(record, dim) == "cython"]
    ends = f"{dims[0]} to {dims[-1]}" if len(dims) > 1 else str(dims[0])
    at = formats.listed([str(dim) for dim in best])
    where = f"at {len(best)} of {len(dims)} dims: {at}" if best else f"at no dim from {ends}"
    if len(best) == len(dims):
        where = f"at every dim from {ends}" if len(dims) > 1 else f"at dim {ends}"
    return f"Cython (C++ kernels) is the fastest of the three {where}."


def facts(record: Record) -> list[Fact]:
    """How much faster, in a few numbers."""
    found = []
    for over in ("numpy", "numba"):
        ratios = [record.speedup(dim, "cython", over) for dim in record.dims()]
        known = [ratio.median for ratio in ratios if ratio is not None]
        if known:
            spread = f"{formats.times(min(known))} to {formats.times(max(known))}"
            found.append(
                Fact(
                    formats.times(geometric_mean(ratios)),
                    f"{NAMES[over]}’s speed, geometric mean over the dims ({spread})",
                    bool(record.contended()),
                )
            )
    if (results := record.peer_results()) is not None:
        for threads in results.threads()[-1:]:
            ratio = results.ratio("blog", threads, "torch-sdpa")
            if ratio is not None:
                meaning = (
                    f"the speed of PyTorch’s SDPA in the blog’s test, "
                    f"{formats.plural(threads, 'thread')}"
                )
                lost = results.others.get(str(threads), {}).get("blog", 0.0)
                contended = lost > conditions.LOST_SHARE
                found.append(Fact(formats.times(ratio.median), meaning, contended))
    return found


def table_1(record: Record) -> Table:
    """The study's Table 1, for this machine."""
    rows = []
    for dim in record.dims():
        tuning = record.tunings.get(str(dim), {})
        config = tuning.get("config", {})
        rows.append(
            (
                str(dim),
                formats.dtype(tuning.get("dtype", NOTHING)),
                str(config.get("block_k", NOTHING)),
                str(config.get("threads", NOTHING)),
                *(formats.seconds(record.seconds(dim, impl)) for impl in IMPLS),
                *(formats.times(record.speedup(dim, impl)) for impl in OTHERS),
            )
        )
    columns = (
        *("dim", "dtype", "block", "threads"),
        *(NAMES[impl] for impl in IMPLS),
        *(f"{NAMES[impl]} speed-up" for impl in OTHERS),
    )
    caption = "Table 1. Time of a call, and speed-up over NumPy"
    fastest = ((at, _fastest(record, dim)) for at, dim in enumerate(record.dims()))
    best = frozenset((at, columns.index(NAMES[impl])) for at, impl in fastest if impl is not None)
    return Table(caption, columns, tuple(rows), _marked(record), best)


def study_1(record: Record) -> Table:
    """The study's Table 1 as printed, for the same dims."""
    rows = tuple(
        (
            str(row.dim),
            formats.dtype(STUDY_DTYPE),
            str(row.block),
            str(row.threads),
            *(formats.seconds(_exact(s)) for s in (row.numpy, row.numba, row.cython)),
            *(formats.times(row.speedup(impl)) for impl in OTHERS),
        )
        for row in STUDY.values()
        if row.dim in record.dims()
    )
    return Table("The study’s Table 1, as printed", table_1(record).columns, rows)


def speedups(record: Record) -> Table:
    """Speed-ups with intervals, beside the study's."""
    columns = ["dim"]
    for impl in OTHERS:
        columns += [NAMES[impl], "interval", f"study’s {NAMES[impl]}"]
    rows = []
    for dim in record.dims():
        row = [str(dim)]
        for impl in OTHERS:
            ours = record.speedup(dim, impl)
            study = STUDY[dim].speedup(impl) if dim in STUDY else None
            row += [formats.times(ours), formats.interval(ours), formats.times(study)]
        rows.append(tuple(row))
    last = ["mean"]
    for impl in OTHERS:
        ours_mean, study_mean = speedup_means(record, impl)
        last += [formats.times(ours_mean), "", formats.times(study_mean)]
    caption = "Speed-up over NumPy, here and in the study (mean: geometric)"
    return Table(caption, tuple(columns), (*rows, tuple(last)), _marked(record))


def speedup_means(record: Record, impl: str) -> tuple[float, float]:
    """Geometric means of our speed-ups and of the study's, over the same dims."""
    dims = [dim for dim in record.dims() if dim in STUDY]
    printed = [STUDY[dim].speedup(impl) for dim in dims]
    ours = geometric_mean(record.speedup(dim, impl) for dim in dims)
    return ours, geometric_mean(printed)


def variations(record: Record) -> Table:
    """Coefficients of variation."""
    rows = tuple(
        (str(dim), *(formats.percent(record.variation(dim, impl)) for impl in IMPLS))
        for dim in record.dims()
    )
    caption = "Coefficient of variation of a call’s time within a process"
    return Table(caption, ("dim", *(NAMES[impl] for impl in IMPLS)), rows, _marked(record))


def tunings(record: Record) -> Table:
    """What the searches found."""
    rows = []
    for dim, found in sorted(record.tunings.items(), key=lambda pair: int(pair[0])):
        seen, valid = found["exploration"]
        low, high = found["speedup_interval"] or (math.nan, math.nan)
        config, load = found["config"], found["load"]
        lost = (load["others"] or 0.0) + (load["stolen"] or 0.0)
        rows.append(
            (
                dim,
                formats.dtype(found["dtype"]),
                str(config.get("block_k", NOTHING)),
                str(config.get("threads", NOTHING)),
                formats.times(found["speedup"]),
                NOTHING if math.isnan(low) else f"{low:.2f} to {high:.2f}",
                f"{seen} of {valid}",
                f"{found['tuning_seconds']:.1f}{formats.SPACE}s",
                formats.percent(lost),
            )
        )
    columns = (
        *("dim", "dtype", "block", "threads", "speed-up over the default", "interval"),
        *("points measured", "duration", "other load"),
    )
    marked = frozenset(
        at
        for at, (_, found) in enumerate(sorted(record.tunings.items(), key=lambda p: int(p[0])))
        if sum(found["load"][name] or 0.0 for name in ("others", "stolen")) > conditions.LOST_SHARE
    )
    return Table("Configurations found by the genetic tuner", columns, tuple(rows), marked)


def roofline(record: Record) -> Table:
    """Fractions of peak."""
    rows = []
    for name, found in record.roofline.items():
        over = found["time_over_peak"]
        time_ = report_seconds(found["time"])
        share = formats.percent(1 / statistics.median(over)) if over else found["reason"] or NOTHING
        rows.append((name, time_, share))
    return Table(
        "Fraction of peak, Cython on one thread", ("regime", "time", "of peak"), tuple(rows)
    )


def sharing(ratios: Sequence[Mapping[str, Any]]) -> Table:
    """OpenMP's time over the pool's, idle and contended, a row for each case."""
    rows: dict[str, dict[str, str]] = {}
    for one in ratios:
        ratio = Estimate(**one["openmp_over_pool"])
        cells = rows.setdefault(one["case"], {})
        cells[f"pool, {one['load']}"] = formats.seconds(_exact(one["pool_seconds"]))
        cells[f"OpenMP over pool, {one['load']}"] = (
            f"{formats.times(ratio)} ({formats.interval(ratio)})"
        )
    columns = tuple(dict.fromkeys(name for cells in rows.values() for name in cells))
    return Table(
        "Time of a call with the pool, and time with OpenMP over that with the pool",
        ("regime", *columns),
        tuple((case, *(c.get(name, NOTHING) for name in columns)) for case, c in rows.items()),
    )


def report_seconds(values: Sequence[float]) -> str:
    """Median of the processes' seconds, as text."""
    return formats.seconds(_exact(statistics.median(values)) if values else None)


def peers(record: Record) -> list[Table]:
    """Times over ours: one table for each number of threads."""
    results = record.peer_results()
    if results is None:
        return []
    names = [name for name in results.peers if name != "cython"]
    found = []
    for threads in results.threads():
        marked: set[int] = set()
        rows: list[tuple[str, ...]] = []
        for cell in results.cells(threads):
            ours = results.get(cell, threads, "cython")
            if results.others.get(str(threads), {}).get(cell, 0.0) > conditions.LOST_SHARE:
                marked.add(len(rows))
            rows.append(
                (
                    cell,
                    report_seconds(ours.samples if ours else []),
                    *(_format_ratio(results, cell, threads, name) for name in names),
                )
            )
        found.append(
            Table(
                f"Time over Cython’s, {formats.plural(threads, 'thread')}",
                ("cell", "Cython", *(NAMES[name] for name in names)),
                tuple(rows),
                frozenset(marked),
            )
        )
    return found


def blog(record: Record) -> Table | None:
    """The blog's test, as printed and here; None if it was not measured here."""
    results = record.peer_results()
    if results is None:
        return None
    columns, rows = ["", f"blog, {formats.plural(BLOG_THREADS, 'thread')}"], []
    threads = [t for t in results.threads() if "blog" in results.cells(t)]
    if not threads:
        return None
    columns += [f"here, {formats.plural(t, 'thread')}" for t in threads]
    for name in ("torch-hand", "torch-sdpa", "numpy", "cython"):
        row = [NAMES[name]]
        printed = BLOG_SECONDS.get(name)
        row.append(NOTHING if printed is None else formats.seconds(_exact(printed)))
        for count in threads:
            entry = results.get("blog", count, name)
            row.append(report_seconds(entry.samples if entry else []))
        rows.append(tuple(row))
    return Table("The blog’s test: time of a call", tuple(columns), tuple(rows))


def _format_ratio(results: Results, cell: str, threads: int, name: str) -> str:
    value = results.ratio(cell, threads, name)
    if value is None:
        return NOTHING
    return f"{formats.times(value.median)} ({value.low:.2f} to {value.high:.2f})"


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _fastest(record: Record, dim: int) -> str | None:
    """The fastest by speed-up, since ratios are paired and times are not."""
    found = {impl: record.speedup(dim, impl) for impl in IMPLS}
    known = {impl: value.median for impl, value in found.items() if value is not None}
    return max(known, key=lambda impl: known[impl]) if known else None


def _marked(record: Record) -> frozenset[int]:
    contended = record.contended()
    return frozenset(at for at, dim in enumerate(record.dims()) if dim in contended)
