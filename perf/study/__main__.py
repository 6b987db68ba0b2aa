"""Measure and write the report: ``python -m perf.study``, behind ``make report``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from perf import entry
from perf.files import check_writable
from perf.progress import bar
from perf.study import formats, measure
from perf.study.data import Record

FOLDER = Path("report")
NAME = "data.json"
MOST_DIFFERENCE = 0.05  # between speed-ups of two runs on one machine
PAUSE_SECONDS = 0.5


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m perf.study", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where to write, default %(default)s/"
    )
    parser.add_argument("--quick", action="store_true", help="only dims 64 and 128, about a minute")
    parser.add_argument("--rounds", type=int, help="processes for each dim, default 9")
    parser.add_argument(
        "--data", type=Path, metavar="JSON", help="render stored results, without measuring"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="JSON",
        help="compare Table 1 with an earlier run; status 1 if a speed-up differs by over 5 %%",
    )
    known = parser.parse_args(arguments)
    if known.rounds is not None and known.rounds < 1:
        parser.error(f"--rounds {known.rounds}: accepted are whole numbers from 1 up")
    for path in (known.data, known.against):
        if path is not None and not path.is_file():
            parser.error(f"{path} is not there: give a {NAME} that an earlier run kept")
    return known


def measured(extent: measure.Extent, path: Path) -> Record:
    """Measure behind a progress bar, which is drawn only while nothing is timed."""
    record = Record(measure.about(extent), extent.rounds)
    with bar(auto_refresh=False) as progress:
        task = progress.add_task("starting", total=1.0)

        def tell(done: float, text: str) -> None:
            progress.update(task, completed=done, description=text, refresh=True)

        measure.run(record, extent, lambda: record.write(path), _paced(tell))
    return record


def _paced(tell: measure.Tell, clock: Callable[[], float] = time.monotonic) -> measure.Tell:
    """Tell only now and then: between the blocks of a search there is no time for more."""
    last = -PAUSE_SECONDS

    def paced(done: float, text: str) -> None:
        nonlocal last
        if clock() >= last + PAUSE_SECONDS:
            last = clock()
            tell(done, text)

    return paced


def compare(record: Record, earlier: Record) -> int:
    """Print how speed-ups differ from an earlier run's; returns 1 if one differs too much."""
    found = measure.differences(record, earlier)
    if not found:
        print("The two runs have no dim in common.")
        return 1
    for (dim, impl), value in found.items():
        ours, theirs = record.speedup(dim, impl), earlier.speedup(dim, impl)
        print(
            f"dim {dim:<5} {impl:<7} {formats.times(ours):>7} {formats.times(theirs):>7} "
            f"{100 * value:+6.1f} %"
        )
    worst = max(found.values(), key=abs)
    print(f"Speed-ups differ by at most {100 * abs(worst):.1f} %.")
    return 1 if abs(worst) > MOST_DIFFERENCE else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    The status is 130 if it was stopped, 1 if nothing was measured or speed-ups differ from
    those of `--against`, 2 if something failed.
    """
    from perf.study import page

    known = parse(arguments)
    earlier = None if known.against is None else Record.read(known.against)
    if known.data is not None:
        record = Record.read(known.data)
    else:
        extent = measure.QUICK if known.quick else measure.FULL
        if known.rounds is not None:
            extent = replace(extent, rounds=known.rounds)
        check_writable(known.folder / NAME)
        print("Measuring; Ctrl-C keeps what there is and shows it.")
        record = measured(extent, known.folder / NAME)
    try:
        for path in page.render(record, known.folder):
            print(f"Wrote {path}")
    except KeyboardInterrupt:
        kept = known.data or known.folder / NAME
        print("\nStopped before all was drawn; this draws it:")
        print(f"python -m perf.study --data {kept}")
        return 130
    for warning in page.warnings(record):
        print(warning)
    if record.interrupted and known.data is None:
        return 130
    if not record.dims():
        return 1
    if record.failures():
        return 2
    return 0 if earlier is None else compare(record, earlier)


if __name__ == "__main__":
    entry.run(main)
