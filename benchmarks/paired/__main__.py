"""Compare two revisions: ``python -m benchmarks.paired BASE [HEAD]``, behind ``make compare``.

Builds both, lets a live process of each take turns on one CPU, and says of every benchmark
whether it became worse, better, stayed the same, or cannot be told.  Exit status: 0 nothing
worse, 1 something worse, 2 could not measure.  Ctrl-C keeps and shows what there is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, conditions
from benchmarks.paired import table
from benchmarks.paired.builds import FOLDER, Build, BuildError, Builder
from benchmarks.paired.cells import SUITES, Cell, cells
from benchmarks.paired.engine import Comparison, compare
from benchmarks.paired.progress import Progress
from benchmarks.paired.rule import Rule
from benchmarks.paired.workers import SIDES, Pace, Side, Workers

ROOT = Path(__file__).resolve().parent.parent.parent
LOG = FOLDER / "build.log"
COULD_NOT_MEASURE = 2


def places(threads: int) -> tuple[list[int] | None, list[int] | None]:
    """CPUs of the workers, and of this process: the last ones, and the rest.

    None where the system cannot bind.
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
    """Compare two installed sides; the conditions of the processes beside it."""
    theirs, ours = places(threads)
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


def machine() -> str:
    """The processor, in words."""
    lines = Path("/proc/cpuinfo")
    text = lines.read_text(encoding="utf-8") if lines.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"{(models or ['unknown CPU'])[0]}, {os.cpu_count()} CPUs"


def settings(arguments: argparse.ArgumentParser) -> None:
    """Arguments that calibration has too."""
    arguments.add_argument("--suite", choices=SUITES, default="smoke", help="default %(default)s")
    arguments.add_argument("--bench", metavar="REGEX", help="only benchmarks whose names match")
    arguments.add_argument("--impl", nargs="+", choices=common.IMPLS, help="default: the suite's")
    arguments.add_argument("--threads", type=int, default=common.THREADS)
    arguments.add_argument("--minutes", type=float, help="for the rounds; default: the suite's")


def seconds_of(options: argparse.Namespace) -> float | None:
    """Limit of the rounds."""
    if options.minutes is not None:
        return 60 * float(options.minutes)
    return SUITES[options.suite].seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired", description=__doc__)
    parser.add_argument("base", help="revision that is compared with")
    parser.add_argument("head", nargs="?", default="HEAD", help="default %(default)s")
    settings(parser)
    parser.add_argument("--band", type=float, default=Rule().band, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=None, help="of the order of turns")
    parser.add_argument("--output", type=Path, default=FOLDER / "compare", metavar="STEM",
                        help="where STEM.md and STEM.json go; default %(default)s")  # fmt: skip
    options = parser.parse_args()
    if "numpy" in (options.impl or ()) and options.threads != common.THREADS:
        parser.error(f"numpy is measured on {common.THREADS} thread")
    return options


def main() -> int:
    """Run the command."""
    from benchmarks import run

    options = _options()
    os.chdir(ROOT)
    run.ensure_home()
    chosen = cells(SUITES[options.suite], options.impl, options.bench)
    if not chosen:
        print(f"no benchmark of the suite matches {options.bench!r}")
        return COULD_NOT_MEASURE
    changed = run.uncommitted() if options.head == "HEAD" else []
    if changed:
        print(f"Not compared, for the commit is built: changes in {', '.join(changed)}")
    started = time.monotonic()
    with Progress() as progress:
        try:
            base, head = _builds(options, progress)
        except BuildError as error:
            print(error)
            return COULD_NOT_MEASURE
        except KeyboardInterrupt:
            print("interrupted while building")
            return COULD_NOT_MEASURE
        sides = [Side(s, b.python, b.folder) for s, b in zip(SIDES, (base, head), strict=True)]
        seed = options.seed if options.seed is not None else time.time_ns() % 2**32
        found, facts = measure(
            sides,
            chosen,
            Rule(band=options.band),
            progress,
            seconds_of(options),
            options.threads,
            seed,
        )
    about = {
        "base": f"{options.base} ({base.commit[:8]})",
        "head": f"{options.head} ({head.commit[:8]})",
        "machine": machine(),
        "suite": options.suite,
        "threads": options.threads,
        "minutes": (time.monotonic() - started) / 60,
        "seed": seed,
        "conditions": facts,
    }
    return conclude(found, about, options.output)


def _builds(options: argparse.Namespace, progress: Progress) -> tuple[Build, Build]:
    builder = Builder(LOG, progress.say)
    commits = [builder.commit(revision) for revision in (options.base, options.head)]
    return tuple(builder.install(c, s) for c, s in zip(commits, SIDES, strict=True))  # type: ignore[return-value]


def conclude(found: Comparison, about: Mapping[str, Any], stem: Path) -> int:
    """Show and keep what was found; the exit status."""
    text = table.markdown(found, about)
    table.write(stem.with_suffix(".json"), table.record(found, about))
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return found.status


if __name__ == "__main__":
    sys.exit(main())
