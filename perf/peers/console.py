"""The tables of a run."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.conditions import LOST_SHARE
from perf import conditions, report
from perf.peers import OURS, registry
from perf.peers.cells import CELLS
from perf.peers.results import Results, fraction_of_limit
from perf.summary import Estimate, geometric_mean

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 120  # columns, if the output is not a terminal
REFERENCES = ("numpy", "torch-sdpa")


def others(results: Results) -> list[str]:
    """Peers that are not ours."""
    peers = registry()
    return [name for name in results.peers if not peers[name].ours]


def shown(results: Results, threads: int) -> list[str]:
    """Peers with any sample on that many threads."""
    timed = {e.peer for e in results.entries if e.threads == threads and e.samples}
    return [name for name in results.peers if name in timed]


def speed_table(results: Results, threads: int) -> Table:
    """Speed of every peer."""
    columns = shown(results, threads)
    table = _table(f"GFLOP/s of useful work, {_threads(threads)}")
    table.add_column("cell", no_wrap=True)
    for name in columns:
        table.add_column(name.replace("-", "\n", 1), justify="right", no_wrap=True)
    for cell in results.cells(threads):
        row = [(name, _speed(results, cell, threads, name)) for name in columns]
        best = max((speed for _, speed in row if isinstance(speed, float)), default=None)
        table.add_row(cell, *(_format_speed(speed, best) for _, speed in row))
    return table


def verdict_table(results: Results, threads: int) -> Table:
    """Our time, the fraction of the machine's limit that it reaches, and others' times over it."""
    table = _table(f"Time over {OURS}'s, above 1 we are faster, {_threads(threads)}")
    table.add_column("cell", no_wrap=True)
    for name in (f"{OURS}\ntime", "of the\nlimit", *REFERENCES, "fastest\npeer"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("which", no_wrap=True)
    for cell in results.cells(threads):
        best = results.fastest(cell, threads, others(results))
        table.add_row(
            cell,
            _time(results, cell, threads),
            _fraction(results, cell, threads),
            *(interval(results.ratio(cell, threads, name)) for name in REFERENCES),
            interval(best and best[1]),
            best[0] if best else "-",
        )
    return table


def summary_table(results: Results) -> Table:
    """Geometric means over the cells of each data type."""
    table = _table(f"Geometric mean of the times over {OURS}'s, above 1 we are faster")
    table.add_column("")
    columns = [*REFERENCES, "fastest peer"]
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("cells", justify="right")
    for threads in results.threads():
        cells = results.cells(threads)
        for dtype in dict.fromkeys(CELLS[cell].case.dtype for cell in cells):
            chosen = [cell for cell in cells if CELLS[cell].case.dtype == dtype]
            best = [results.fastest(cell, threads, others(results)) for cell in chosen]
            means = {"fastest peer": geometric_mean(b and b[1] for b in best)}
            for name in columns:
                if name not in means:
                    means[name] = geometric_mean(results.ratio(c, threads, name) for c in chosen)
            table.add_row(
                f"{dtype}, {_threads(threads)}",
                *(report.show(means[name], report.speedup) for name in columns),
                str(len(chosen)),
            )
    return table


def error_table(results: Results) -> Table:
    """Error of every peer's result, over that of the plain computation: less is better."""
    columns = [n for n in results.peers if any(n in shown(results, t) for t in results.threads())]
    table = _table(
        "Error: the largest over that of the plain computation; in 16-bit types, root mean square "
        "over that of the exact result rounded once"
    )
    table.add_column("cell", no_wrap=True)
    for name in columns:
        table.add_column(name.replace("-", "\n", 1), justify="right", no_wrap=True)
    for cell in dict.fromkeys(entry.cell for entry in results.entries):
        errors = (results.error(cell, name) for name in columns)
        table.add_row(cell, *("-" if error is None else f"{error:.2f}" for error in errors))
    return table


def behind(results: Results) -> list[str]:
    """Every cell and peer where we are slower, the worst first."""
    found = []
    for threads in results.threads():
        for cell in results.cells(threads):
            for name in results.peers:
                value = results.ratio(cell, threads, name)
                if name != OURS and value is not None and value.median < 1:
                    text = f"{cell}, {_threads(threads)}: {name} {interval(value)}"
                    found.append((value.median, text))
    return [text for _, text in sorted(found)]


def remarks(results: Results) -> list[str]:
    """What was not timed and why, and what was contended."""
    from rich.markup import escape

    lines = []
    reasons: dict[str, Counter[str]] = {}
    for e in results.entries:
        if e.skipped:
            reasons.setdefault(e.skipped, Counter())[e.peer] += 1
    for reason, peers in reasons.items():
        text = ", ".join(f"{peer} ({_plural(count, 'time')})" for peer, count in peers.items())
        lines.append(f"[dim]skipped[/] {escape(reason)}: {text}")
    for e in results.entries:
        where = f"{e.peer}, {e.cell}, {_threads(e.threads)}"
        if e.failed:
            lines.append(f"[bold red]not timed[/] {where}: {escape(e.failed)}")
        if e.alone:
            lines.append(f"[dim]slow[/] {where}: one call of {report.seconds(e.samples[0])}")
        if e.restless:
            lines.append(f"[yellow]restless[/] before {_plural(e.restless, 'turn')} of {where}")
    for threads, cells in results.others.items():
        for cell, share in cells.items():
            if share > LOST_SHARE:
                lines.append(
                    f"[yellow]contended[/] {cell}, {_threads(int(threads))}: others took "
                    f"{report.percent(share)} of the CPUs' time; measure again"
                )
    return lines


def agreement_lines(results: Results) -> list[str]:
    """For cells that compare results with ours: how far apart they are, and their times."""
    lines = []
    for threads in results.threads():
        for name in results.cells(threads):
            bound = CELLS[name].agreement
            entries = [e for e in results.entries if (e.cell, e.threads) == (name, threads)]
            far = [e.difference for e in entries if e.difference is not None]
            if bound is None or not far:
                continue
            times = (
                f"{e.peer} {report.seconds(statistics.median(e.samples))}"
                for e in entries
                if e.samples
            )
            lines.append(
                f"{name}, {_threads(threads)}: within {max(far):.1e} of {OURS} "
                f"(asked: {bound:.0e}); {', '.join(times)}"
            )
    return lines


def render(results: Results) -> int:
    """Print it all; returns 2 if one of ours disagreed or failed."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print()
    for threads in results.threads():
        console.print(speed_table(results, threads))
        console.print(verdict_table(results, threads))
    console.print(summary_table(results))
    console.print(error_table(results))
    for line in agreement_lines(results):
        console.print(line, soft_wrap=True)
    slower = behind(results)
    console.print(f"\n[bold]Behind[/]: {'' if slower else 'nowhere'}")
    for line in slower:
        console.print(f"  {line}")
    console.print()
    for line in remarks(results):
        console.print(line, soft_wrap=True)
    about = results.about
    if text := conditions.forced(about["environment"]):
        console.print(text, soft_wrap=True)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    machine = about["machine"]
    console.print(f"\n{versions}", soft_wrap=True)
    console.print(
        f"Commit {about['commit']}, {machine['processor']}, {machine['usable_cpus']} CPUs.  "
        "Time: median.  Ratios: median of those of one repetition, and the middle 80 % of them."
        "  Limit: peak of arithmetic (FMA; in bfloat16, its products if they are faster), or "
        "reading keys and values at streaming bandwidth.",
        soft_wrap=True,
    )
    peers = registry()
    return 2 if any(e.failed and peers[e.peer].ours for e in results.entries) else 0


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False
    )


def interval(value: Estimate | None) -> str:
    """Median, and the interval: ``1.29 (1.20-1.41)``."""
    if value is None:
        return "-"
    colour = "green" if value.median >= 1 else "red"
    if value.low == value.high:
        return f"[{colour}]{value.median:.2f}[/]"
    return f"[{colour}]{value.median:.2f}[/] [dim]({value.low:.2f}-{value.high:.2f})[/]"


def _time(results: Results, cell: str, threads: int) -> str:
    entry = results.get(cell, threads, OURS)
    if entry is None or not entry.samples:
        return "-"
    return report.seconds(statistics.median(entry.samples))


def _speed(results: Results, cell: str, threads: int, peer: str) -> float | str:
    """GFLOP/s, or a word where there is none."""
    entry = results.get(cell, threads, peer)
    if entry is not None and entry.failed:
        return "no"
    if entry is None or not entry.samples:
        return "-"
    return CELLS[cell].operations / statistics.median(entry.samples) / 1e9


def _format_speed(speed: float | str, best: float | None) -> str:
    if isinstance(speed, str):
        return "[bold red]no[/]" if speed == "no" else speed
    text = f"{speed:.{0 if speed >= 100 else 1}f}"
    return f"[bold]{text}[/]" if speed == best else text


def _fraction(results: Results, cell: str, threads: int) -> str:
    entry, limits = results.get(cell, threads, OURS), results.limits.get(str(threads))
    if entry is None or not entry.samples or not limits:
        return "-"
    row = CELLS[cell]
    value, which = fraction_of_limit(
        statistics.median(entry.samples), row.operations, row.keys_bytes, row.case.dtype, limits
    )
    return "-" if not math.isfinite(value) else f"{100 * value:.0f}% {which}"


def _threads(number: int) -> str:
    return _plural(number, "thread")


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
