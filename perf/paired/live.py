"""A comparison of two installed sides on this machine, and the arguments that control it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, conditions
from perf.paired.builds import FOLDER
from perf.paired.cells import SUITES, Cell
from perf.paired.engine import Comparison, compare
from perf.paired.rounds import Pace, Side, Workers
from perf.paired.rule import Rule
from perf.progress import Progress

ROOT = Path(__file__).resolve().parent.parent.parent
LOG = FOLDER / "build.log"


def cpu_sets(threads: int) -> tuple[list[int] | None, list[int] | None]:
    """CPUs for the workers (the last ones) and for this process (the rest).

    None if the system cannot bind processes to CPUs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    usable = conditions.cpus()
    return usable[-threads:], usable[:-threads] or usable


def measure(
    sides: Sequence[Side],
    chosen: Mapping[str, Cell],
    rule: Rule,
    progress: Progress,
    seconds: float | None = None,
    threads: int = common.THREADS,
    seed: int = 0,
    pace: Pace = Pace(),  # noqa: B008
    folder: Path = FOLDER / "rounds",
) -> tuple[Comparison, dict[str, Any]]:
    """Compare two installed sides; also return the conditions of the processes."""
    theirs, ours = cpu_sets(threads)
    before = conditions.cpus()
    if ours is not None:
        os.sched_setaffinity(0, ours)
    folder.mkdir(parents=True, exist_ok=True)
    end = None if seconds is None else time.monotonic() + seconds
    workers = Workers(
        sides,
        chosen,
        rule,
        folder.resolve(),
        pace=pace,
        cpus=theirs,
        threads=threads,
        seed=seed,
        on_cell=progress.cell,
        end=end,
    )
    try:
        found = compare(workers, list(chosen), rule, end, progress.round)
    finally:
        if ours is not None:
            os.sched_setaffinity(0, before)
    return found, workers.facts


def settings(arguments: argparse.ArgumentParser) -> None:
    """Add the arguments that comparison and calibration share."""
    arguments.add_argument("--suite", choices=SUITES, default="smoke", help="cases and duration")
    arguments.add_argument("--bench", metavar="REGEX", help="only benchmarks whose names match")
    arguments.add_argument(
        "--impl", nargs="+", choices=common.IMPLS, help="default: those of the suite"
    )
    arguments.add_argument(
        "--threads", type=int, default=common.THREADS, help="of each call, default %(default)s"
    )
    arguments.add_argument(
        "--minutes", type=float, help="time for the rounds, default: the suite's"
    )


def seconds_of(options: argparse.Namespace) -> float | None:
    """Time limit of the rounds, if there is one."""
    if options.minutes is not None:
        return 60 * float(options.minutes)
    return SUITES[options.suite].seconds
