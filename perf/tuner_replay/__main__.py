"""Record tables, and replay searches of them: ``python -m perf.tuner_replay``.

workloads       what is recorded
record          tables of this machine; record_worker, the processes that measure them
recorded_table  a table, and its file; synthetic, tables that are hard by design
replay          one search of a table, judged
rivals          other libraries' optimisers
campaign        many replays, at equal evaluations and at equal kernel-seconds
results, judge  what came of them, and what may be concluded
console, plots  the same, in words and in pictures
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import fastattn
from fastattn._errors import FastattnError
from perf import entry
from perf.files import check_writable
from perf.progress import shares
from perf.tuner_replay import campaign, console, plots, synthetic
from perf.tuner_replay.campaign import SETTINGS, Setting, load
from perf.tuner_replay.record import Extent, RecordError, record
from perf.tuner_replay.recorded_table import Table
from perf.tuner_replay.results import Results
from perf.tuner_replay.rivals import RIVALS, missing
from perf.tuner_replay.strategies import STRATEGIES
from perf.tuner_replay.workloads import HELD_OUT, TUNING, WORKLOADS

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "recorded"
KEPT = HERE.parents[1] / ".tuner_replay"
GROUPS = {"all": tuple(WORKLOADS), "held-out": HELD_OUT, "tuning": TUNING}
DEMANDING = ("flat:1", "multimodal:1", "noisy:1", "rugged:1", "trap:1")
# All but exhaustive, which on a part of a space just takes its first points, and auto, which is
# one of the others.
COMPARED = tuple(name for name in STRATEGIES if name not in ("auto", "exhaustive"))
QUICK, QUICK_RIVALS = 40, 10


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.tuner_replay",
        description="Record tables, and replay searches of them.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    extent = Extent()

    recording = commands.add_parser("record", help="measure every point of each workload")
    recording.add_argument(
        "--repetitions",
        type=int,
        default=extent.repetitions,
        help="of each table, default %(default)s",
    )
    recording.add_argument(
        "--processes",
        type=int,
        default=extent.processes,
        help="fresh processes for each table, default %(default)s",
    )
    recording.add_argument("--seconds", type=float, help="time limit for each table")
    recording.add_argument(
        "--anew", action="store_true", help="start again, instead of continuing tables"
    )

    replaying = commands.add_parser("replay", help="search the tables many times")
    replaying.add_argument("--settings", help="SPACE[-warm]-BUDGET, separated by commas")
    replaying.add_argument("--strategies", help="default all, and the rivals that are installed")
    replaying.add_argument(
        "--replays", type=int, default=1000, help="searches, default %(default)s"
    )
    replaying.add_argument(
        "--rival-replays", type=int, help="searches by each rival, default the same"
    )
    replaying.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    replaying.add_argument(
        "--neighbours", type=int, default=1, help="winners known to a warm start, default 1"
    )
    replaying.add_argument("--quick", action="store_true", help=f"{QUICK} searches")
    replaying.add_argument("--json", type=Path, help="where to store results")
    replaying.add_argument(
        "--plot", type=Path, help="pictures, .png or .svg; default beside the JSON"
    )

    showing = commands.add_parser("show", help="describe tables, or show stored results")
    showing.add_argument("results", type=Path, nargs="?", help="file that `replay` stored")
    showing.add_argument(
        "--plot", type=Path, help="pictures, .png or .svg; default beside the JSON"
    )

    for command, default in ((recording, "all"), (replaying, "held-out"), (showing, "all")):
        command.add_argument(
            "--tables",
            default=default,
            help=f"names, or {', '.join(GROUPS)}; default %(default)s"
            + ("" if command is recording else "; or synthetic, or LANDSCAPE:SEED"),
        )
        command.add_argument("--folder", type=Path, default=FOLDER, help="folder of the tables")
    known = parser.parse_args(arguments)
    known.tables = _tables(parser, known.tables, known.command != "record")
    if known.command == "replay":
        known.strategies = _strategies(parser, known.strategies)
        if known.quick:
            known.replays, known.rival_replays = QUICK, known.rival_replays or QUICK_RIVALS
        known.rival_replays = min(known.replays, known.rival_replays or known.replays)
        known.json = known.json or KEPT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        known.plot = known.plot or known.json.with_suffix(".png")
    if known.command == "show" and known.results is not None:
        known.plot = known.plot or known.results.with_suffix(".png")
    for name in ("repetitions", "processes", "replays", "rival_replays", "neighbours"):
        if getattr(known, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')}: 1 or more")
    return known


def _tables(parser: argparse.ArgumentParser, text: str, made: bool) -> list[str]:
    """Names of tables, with groups spelt out."""
    names: list[str] = []
    for word in text.split(","):
        names += GROUPS.get(word, DEMANDING if made and word == "synthetic" else (word,))
    for name in names:
        landscape = name.partition(":")[0]
        if name not in WORKLOADS and not (made and landscape in synthetic.LANDSCAPES):
            parser.error(f"--tables {name}: accepted are {', '.join((*GROUPS, *WORKLOADS))}")
    return list(dict.fromkeys(names))


def _strategies(parser: argparse.ArgumentParser, text: str | None) -> list[str]:
    """Names of strategies; those that are not installed are left out, with a message."""
    names = list(dict.fromkeys(text.split(",") if text else (*COMPARED, *RIVALS)))
    there = []
    for name in names:
        if name not in STRATEGIES and name not in RIVALS:
            parser.error(f"--strategies {name}: accepted are {', '.join((*STRATEGIES, *RIVALS))}")
        if (reason := missing(name)) is None:
            there.append(name)
        else:
            print(f"{name} is left out: {reason}")
    if not there:
        parser.error("--strategies: none of them is there")
    return there


def sources(names: Iterable[str], folder: Path) -> tuple[list[str], list[str]]:
    """Where tables come from, and the names of those that were not recorded."""
    found, absent = [], []
    for name in names:
        path = folder / f"{name}.json"
        if name not in WORKLOADS:
            found.append(name)
        elif path.exists():
            found.append(str(path))
        else:
            absent.append(name)
    return found, absent


def record_all(known: argparse.Namespace) -> int:
    """Record tables."""
    extent = Extent(known.repetitions, known.processes, known.seconds)
    count = len(known.tables)
    with shares() as tell:
        for number, name in enumerate(known.tables):
            path = known.folder / f"{name}.json"

            def progress(share: float, text: str, number: int = number) -> None:
                tell((number + share) / count, text)

            try:
                table = record(name, path, extent, progress, known.anew)
            except KeyboardInterrupt:
                print("\nComplete repetitions are kept; the same command goes on.")
                return 130
            print(describe(table), flush=True)
    return 0


def describe(table: Table) -> str:
    """A table in one line."""
    ratio = 1 / table.ratios.min()
    baseline = table.seconds[table.space.index(table.baseline)]
    best = " ".join(f"{name}={value}" for name, value in table.space.values(table.best).items())
    return (
        f"{table.name:<20} {len(table.space):4} points, {len(table.processes):2} repetitions in "
        f"{len(set(table.processes))} processes, {len(table.failures)} failed; default "
        f"{1e3 * float(sorted(baseline)[len(baseline) // 2]):.3g} ms, best {ratio:.3f} times its "
        f"speed: {best}; {(table.regrets <= 0.02).sum()} points within 2 %, "
        f"resolution {100 * table.resolution:.1f} %"
    )


def replay_all(known: argparse.Namespace) -> int:
    """Replay, print, keep and draw."""
    found, absent = sources(known.tables, known.folder)
    if absent:
        print(f"Not recorded, left out: {', '.join(absent)}")
    loaded = [load(source) for source in found]
    spaces = [table.space.name for table in loaded]
    if known.settings:
        settings = [Setting.parse(name) for name in known.settings.split(",")]
    else:
        settings = [Setting.parse(name) for name in SETTINGS]
        settings += [Setting("synthetic", 18, False), Setting("synthetic", 50, False)]
    settings = [setting for setting in settings if setting.space in spaces]
    if not settings:
        print("There is no table for any of these settings: record some, or `--tables synthetic`.")
        return 1
    check_writable(known.json, *([known.plot] if known.plot else []))
    about = _about(known) | {"resolutions": {t.name: round(t.resolution, 5) for t in loaded}}
    results = Results(about)
    status = 0
    with shares() as tell:
        earlier = [0]

        def progress(done: int, total: int, text: str) -> None:
            share = (earlier[0] + done / total) / (2 * len(settings))
            earlier[0] += done == total
            tell(share, text)

        try:
            for at, _ in enumerate(
                campaign.run(
                    found,
                    settings,
                    known.strategies,
                    replays=known.replays,
                    rival_replays=known.rival_replays,
                    processes=known.processes,
                    known=sources(WORKLOADS, known.folder)[0],
                    neighbours=known.neighbours,
                    results=results,
                    tell=progress,
                ),
                start=1,
            ):
                earlier[0] = 2 * at
                results.write(known.json)
        except KeyboardInterrupt:
            print("\nInterrupted: the settings that were complete follow.")
            status = 130
    if results.cells:
        show(results, known.plot)
        print(f"Kept in {known.json}")
    return status


def show(results: Results, plot: Path | None) -> None:
    """Print results, and draw them if matplotlib is installed."""
    console.render(results)
    if plot is None:
        return
    try:
        files = plots.draw(results, plot)
    except ImportError:
        print("No pictures: matplotlib is not installed.")
    else:
        print("Pictures:", *files)


def _about(known: argparse.Namespace) -> dict[str, object]:
    described = fastattn.machine()
    return {
        "replays": known.replays,
        "rival_replays": known.rival_replays,
        "neighbours": known.neighbours,
        "processor": described.processor,
        "machine": {name: str(value) for name, value in asdict(described).items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    known = parse(arguments)
    try:
        if known.command == "record":
            return record_all(known)
        if known.command == "replay":
            return replay_all(known)
        if known.results is not None:
            show(Results.read(known.results), known.plot)
            return 0
        found, absent = sources(known.tables, known.folder)
        for source in found:
            print(describe(load(source)))
        if absent:
            print(f"Not recorded: {', '.join(absent)}")
    except (FastattnError, RecordError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    entry.run(main)
