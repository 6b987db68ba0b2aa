"""Compare two revisions: ``python -m perf.paired BASE [HEAD]``, behind ``make compare``.

Builds both, measures one process of each alternately on one CPU, and decides for every benchmark
whether it became worse, better, is the same, or is unresolved.  Exit status: 0 if nothing is worse,
1 if something is worse, 2 if the measurement failed, 130 after Ctrl-C, which shows the results so
far.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import common
from perf import conditions, entry
from perf.files import check_writable, write_whole
from perf.paired import table
from perf.paired.builds import FOLDER, Build, Builder, BuildError
from perf.paired.cells import SUITES, cells
from perf.paired.engine import Comparison
from perf.paired.live import LOG, ROOT, measure, seconds_of, settings
from perf.paired.rounds import SIDES, Side
from perf.paired.rule import Rule
from perf.progress import Progress

COULD_NOT_MEASURE = 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m perf.paired", description=__doc__)
    parser.add_argument("base", help="revision to compare with")
    parser.add_argument("head", nargs="?", default="HEAD", help="revision, default %(default)s")
    settings(parser)
    parser.add_argument(
        "--band", type=float, default=Rule().band, help="tolerance of a ratio, default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the random order")
    parser.add_argument("--output", type=Path, default=FOLDER / "compare", metavar="STEM",
                        help="write STEM.md and STEM.json, default %(default)s")  # fmt: skip
    options = parser.parse_args()
    if "numpy" in (options.impl or ()) and options.threads != common.THREADS:
        parser.error(f"numpy is measured on {common.THREADS} thread")
    return options


def main() -> int:
    """Run the command."""
    from perf import run

    options = _options()
    os.chdir(ROOT)
    check_writable(options.output.with_name(f"{options.output.name}.json"))
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
            return 130
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
        "machine": conditions.machine(),
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
    """Show and keep what was found, and return the exit status."""
    text = table.markdown(found, about)
    kept = json.dumps(table.record(found, about), indent=1)
    write_whole(stem.with_name(f"{stem.name}.json"), kept + "\n")
    write_whole(stem.with_name(f"{stem.name}.md"), text)
    print(text)
    return found.status


if __name__ == "__main__":
    entry.run(main)
