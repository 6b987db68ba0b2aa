"""Measure past commits with the present benchmarks: ``make history STEPS=20``.

Measures the tracks of `bench_history` on the last commits that change code, oldest first, publishes
the pages and prints the series.  Commits that have been measured before are not measured again.  A
commit that does not build is listed and skipped.  Exit status: 0, or 2 if a commit or a cell has no
value.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import common
from perf import entry, git, report, run

BENCHMARK = "bench_history.Ratios.track_time_over_baseline"
MARKED = 0.05  # larger changes stand out in the table; the regressions page decides

Series = Mapping[str, Mapping[str, float | None]]  # commit -> regime -> value


def commits(steps: int, branch: str = "main", folder: Path = run.ROOT) -> list[str]:
    """Hashes of the last commits of a branch that change code, oldest first.

    Only first parents, because asv draws no graph for commits that were merged in.

    Raises
    ------
    ValueError
        There is no such branch.
    """
    command = ["rev-list", "--first-parent", f"--max-count={steps}", "--end-of-options", branch]
    try:
        return git.output(*command, "--", *run.CODE, folder=folder).split()[::-1]
    except git.GitError as error:
        raise ValueError(
            f"{branch!r} is no branch or commit here: try --branch HEAD ({error})"
        ) from None


def subject(commit: str) -> str:
    """First line of a commit's message."""
    return git.output("show", "--no-patch", "--format=%s", commit).strip()


def values(commit: str, machine: str, results: Path = report.RESULTS) -> dict[str, float | None]:
    """Stored values of a commit by regime and implementation; None for one that failed.

    Values of another version of the benchmark mean something else, and are left out.
    """
    from benchmarks.bench_history import VERSION

    found = report.load(results, commit, machine)
    if found is None or found.versions.get(BENCHMARK) != VERSION:
        return {}
    return {" ".join(map(str, key)): value for key, value in found.values[BENCHMARK].items()}


def expected() -> list[str]:
    """Names of the values that a commit has when all of it has been measured."""
    from benchmarks.bench_history import Ratios

    return [" ".join(key) for key in itertools.product(*Ratios.params)]


def lacking(cells: Mapping[str, float | None]) -> bool:
    """Whether something was not measured, or failed."""
    return any(cells.get(name) is None for name in expected())


def unbuilt(cells: Mapping[str, float | None]) -> bool:
    """Whether there is no value: if a commit does not build, asv stores every cell as failed."""
    return all(value is None for value in cells.values())


def table(series: Series, subjects: Mapping[str, str]) -> str:
    """One row per commit: values, and in brackets a large change since the last value."""
    names = list(dict.fromkeys(name for cells in series.values() for name in cells))
    width = max((len(name) for name in names), default=0) + 2
    lines = ["commit   " + "".join(f"{name:>{width}}" for name in names)]
    last: dict[str, float] = {}
    for commit, cells in series.items():
        row = ""
        for name in names:
            row += f"{_cell(cells.get(name), last.get(name)):>{width}}"
            value = cells.get(name)
            if value is not None and math.isfinite(value):
                last[name] = value
        if unbuilt(cells):
            row = f"{'it does not build, or fails':>{width * max(1, len(names))}}"
        lines.append(f"{commit[:8]} {row}  {subjects[commit]}")
    return "\n".join(lines)


def _cell(value: float | None, last: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "failed" if value is None else "-"
    change = value / last - 1 if last else 0.0
    return f"{value:.3f}" + (f" ({100 * change:+.0f} %)" if abs(change) > MARKED else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m perf.history", description=__doc__)
    parser.add_argument(
        "steps", type=int, nargs="?", default=10, help="commits, default %(default)s"
    )
    parser.add_argument("--branch", default="main", help="default %(default)s")
    parser.add_argument("--machine", help="name of this machine in the results")
    parser.add_argument("--again", action="store_true", help="measure all commits again")
    options = parser.parse_args(arguments)
    try:
        chosen = commits(options.steps, options.branch)
        common.profile()
    except ValueError as error:
        parser.error(str(error))
    try:
        return _measure(chosen, options.machine, options.again)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on")
        return 130


def _measure(chosen: Sequence[str], machine: str | None, again: bool) -> int:
    with run.session(machine) as here:
        print(f"Measuring {len(chosen)} commits on {here.machine}; log of asv: {run.LOG}")
        series: dict[str, dict[str, float | None]] = {}
        subjects = {commit: subject(commit) for commit in chosen}
        for number, commit in enumerate(chosen, start=1):
            if again or lacking(values(commit, here.machine)):
                print(f"{number} of {len(chosen)}: {commit[:8]} {subjects[commit]}", flush=True)
                here.measure(commit, ["--bench", "bench_history"])
            series[commit] = values(commit, here.machine)
            if unbuilt(series[commit]):
                print(f"{commit[:8]} was passed over: it does not build, or fails; see {run.LOG}")
        status = here.publish()
    print(table(series, subjects))
    for commit in chosen:
        found = report.load(report.RESULTS, commit, here.machine)
        if found is not None and found.warning:
            print(f"{commit[:8]}: {found.warning}")
    return status or (2 if any(map(lacking, series.values())) else 0)


if __name__ == "__main__":
    entry.run(main)
