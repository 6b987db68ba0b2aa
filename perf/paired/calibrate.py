"""How often the paired driver is wrong: ``python -m perf.paired.calibrate``.

Compares a commit with itself, installed twice, as `make compare` would: with equal sides, and with
a head whose worker delays each call by a known share.  Each comparison is one line of the log in
.asv, so runs add up.  The rates over all of them go as Markdown to a file and to standard output;
calibration.md beside this file is such a table.  After Ctrl-C, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf import conditions, entry
from perf.files import Reading, check_writable, write_whole
from perf.paired.builds import FOLDER, Builder, BuildError
from perf.paired.cells import SUITES, cells
from perf.paired.engine import INTERRUPTED, Comparison
from perf.paired.live import LOG as BUILD_LOG
from perf.paired.live import ROOT, measure, seconds_of, settings
from perf.paired.rates import markdown, summary
from perf.paired.rounds import SIDES, Side
from perf.paired.rule import Rule
from perf.progress import Progress

LOG = FOLDER / "calibration.jsonl"
RESULT = FOLDER / "calibration.md"
UNIT = 1e-5  # unit of the log ratios that are kept


def line(found: Comparison, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept from one comparison."""

    def rounds(name: str) -> dict[str, list[int | None]]:
        stages = (("screening", found.screening), ("confirming", found.confirming))
        return {
            stage: [r.log_ratio if r.log_ratio is None else round(r.log_ratio / UNIT) for r in one]
            for stage, many in stages
            if (one := many.get(name))
        }

    return {
        **about,
        "stopped": found.stopped,
        "lost_share": round(found.lost(), 4),
        "cells": {
            name: {"word": verdict.word, "discarded": found.discarded(name), **rounds(name)}
            for name, verdict in found.verdicts.items()
        },
        "troubles": {name: trouble.text for name, trouble in found.troubles.items()},
    }


def lines(path: Path, suite: str, threads: int) -> list[dict[str, Any]]:
    """Finished comparisons of a suite."""
    if not path.exists():
        return []
    with Reading(path):
        every = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        return [one for one in every if (one["suite"], one["threads"]) == (suite, threads)]


def _run(options: argparse.Namespace, progress: Progress) -> None:
    """Run the comparisons of each kind in random order, and keep each when it is done."""
    builder = Builder(BUILD_LOG, progress.say)
    commit = builder.commit(options.revision)
    chosen = cells(SUITES[options.suite], options.impl, options.bench)
    installed = []
    for name in SIDES:
        build = builder.install(commit, name)
        installed.append(Side(name, build.python, build.folder))
    kinds = [percent for percent in options.percent for _ in range(options.times)]
    random.shuffle(kinds)
    for number, percent in enumerate(kinds, start=1):
        delays = (0.0, percent / 100) if percent else (None, None)
        sides = [
            Side(build.name, build.python, build.folder, delay)
            for build, delay in zip(installed, delays, strict=True)
        ]
        progress.say(f"comparison {number} of {len(kinds)}: {percent:g} % slower")
        seed, started = time.time_ns() % 2**32, time.monotonic()
        found, _ = measure(
            sides, chosen, Rule(), progress, seconds_of(options), options.threads, seed
        )
        if found.stopped == INTERRUPTED:  # a stopped comparison says nothing about the rates
            raise KeyboardInterrupt
        about = {
            "percent": percent,
            "commit": commit,
            "suite": options.suite,
            "threads": options.threads,
            "minutes": round((time.monotonic() - started) / 60, 2),
            "seed": seed,
            "machine": conditions.machine(),
        }
        with LOG.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line(found, about)) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m perf.paired.calibrate",
                                     description=__doc__)  # fmt: skip
    settings(parser)
    parser.add_argument("--revision", default="HEAD", help="default %(default)s")
    parser.add_argument("--times", type=int, default=1, help="comparisons of each kind; 0: none")
    parser.add_argument("--percent", type=float, nargs="+", default=[0, 2, 5, 10],
                        help="slowdowns; 0 is the commit against itself")  # fmt: skip
    parser.add_argument("--simulate", type=int, default=2000, metavar="N",
                        help="simulated comparisons of equal sides; a tenth for each "
                        "cell and effect")  # fmt: skip
    parser.add_argument("--result", type=Path, default=RESULT, help="default %(default)s")
    return parser.parse_args()


def main() -> int:
    """Run the command."""
    from perf import run

    options = _options()
    os.chdir(ROOT)
    run.ensure_home()
    check_writable(options.result, LOG)
    status = 0
    if options.times:
        with Progress() as progress:
            try:
                _run(options, progress)
            except BuildError as error:
                print(error)
                return 2
            except KeyboardInterrupt:
                status = 130
    done = lines(LOG, options.suite, options.threads)
    if not done:
        print(f"no comparison of suite {options.suite} in {LOG}")
        return 2
    command = f"python -m perf.paired.calibrate {shlex.join(sys.argv[1:])}".strip()
    result = summary(done, Rule(), options.simulate, UNIT) | {"command": command}
    write_whole(options.result, markdown(result) + "\n")
    print(markdown(result))
    return status


if __name__ == "__main__":
    entry.run(main)
