"""Compare fastattn with other libraries: ``python -m perf.peers``, behind ``make peers``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from perf import entry
from perf.files import check_writable
from perf.peers import OURS, chart, command, console, registry
from perf.peers.cells import BLOG, CELLS
from perf.peers.results import Results
from perf.progress import bar

FOLDER = command.ROOT / ".peers"
SECONDS = 8.0
BLOG_PEERS = ("numpy", "torch-sdpa", "torch-hand", "torch-mha")
# A cell takes longer than its turns: there are checks, first calls, and at least five turns.
OVERHEAD = 1.8
PAUSE_SECONDS = 0.5


def parse(text: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m perf.peers", description=__doc__)
    parser.add_argument(
        *("only",),
        nargs="?",
        choices=["blog", "list"],
        help="blog: the public test of torch's SDPA; list: cells and peers, with reasons",
    )
    parser.add_argument("--cells", help="names separated by commas, default all")
    parser.add_argument(
        "--peers", help=f"names separated by commas, default all; {OURS} is always included"
    )
    parser.add_argument(
        "--threads", default="1,all", help="numbers of threads, default %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="time for each cell, default %(default)s"
    )
    parser.add_argument("--json", type=Path, help="where to store results, default in .peers/")
    parser.add_argument(
        "--plot", type=Path, help="picture, .png or .svg; default in the JSON's folder"
    )
    parser.add_argument(
        "--show", type=Path, metavar="JSON", help="show stored results, without measuring"
    )
    known = parser.parse_args(text)
    blog = known.only == "blog"
    known.cells = _names(parser, known.cells, CELLS, (BLOG.name,) if blog else tuple(CELLS))
    peers = _names(parser, known.peers, registry(), BLOG_PEERS if blog else tuple(registry()))
    known.peers = [OURS, *(name for name in peers if name != OURS)]
    cpus = command.usable_cpus()
    try:
        threads = [cpus if w == "all" else int(w) for w in known.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {known.threads}: numbers with commas, or all")
    if not all(1 <= number <= cpus for number in threads):
        parser.error(f"--threads {known.threads}: from 1 to the {cpus} usable CPUs")
    known.threads = list(dict.fromkeys(threads))
    name = time.strftime("%Y%m%d-%H%M%S")
    known.json = known.show or known.json or FOLDER / f"{name}.json"
    known.plot = known.plot or known.json.with_suffix(".png")
    return known


def _names(
    parser: argparse.ArgumentParser, text: str | None, known: object, default: tuple[str, ...]
) -> list[str]:
    names = text.split(",") if text else list(default)
    accepted = list(known)  # type: ignore[call-overload]
    for name in names:
        if name not in accepted:
            parser.error(f"{name!r}: accepted are {', '.join(accepted)}")
    return names


def listing() -> None:
    """Print the cells and the peers, with the reason if a peer cannot run."""
    print("cells:", *CELLS)
    case = CELLS["small"].case
    for peer in registry().values():
        dtype = peer.dtypes[0] if case.dtype not in peer.dtypes else case.dtype
        reason = peer.missing(case.of(dtype), command.usable_cpus())
        print(f"{peer.name:15} {peer.summary}" + (f"; no: {reason}" if reason else ""))


def measure(known: argparse.Namespace) -> tuple[Results, bool]:
    """Measure behind a progress bar; also return whether it ran to the end.

    The bar is drawn only when a process reports: between turns, when nothing is timed.
    """
    results = Results(command.about(known.seconds), known.peers)
    total = len(known.cells) * len(known.threads)
    with bar(auto_refresh=False) as progress:
        task = progress.add_task("starting", total=total)
        state = {"drawn": 0.0, "began": time.monotonic(), "done": 0.0}

        def tell(cell: str, threads: int, doing: str) -> None:
            now = time.monotonic()
            if not doing:
                state["done"] += 1
                state["began"] = now
                results.write(known.json)  # so that what has been measured survives
            elif now < state["drawn"] + PAUSE_SECONDS:
                return
            state["drawn"] = now
            share = min(0.95, (now - state["began"]) / (OVERHEAD * known.seconds))
            text = f"{cell}, {threads} threads: {doing}" if doing else f"{cell}: done"
            completed = state["done"] + (share if doing else 0.0)
            progress.update(task, completed=completed, description=text, refresh=True)

        try:
            command.run(results, known.cells, known.threads, known.seconds, tell)
        except KeyboardInterrupt:
            return results, False
    return results, True


def main() -> int:
    """Run the command."""
    known = parse()
    if known.only == "list":
        listing()
        return 0
    if known.show:
        results, whole = Results.read(known.show), True
    else:
        check_writable(known.json, known.plot)
        print(
            f"{len(known.cells)} cells, {len(known.peers)} peers, "
            f"threads {', '.join(map(str, known.threads))}; Ctrl-C keeps and shows what there is"
        )
        results, whole = measure(known)
        results.write(known.json)
    if not any(entry.samples for entry in results.entries):
        print("Nothing was timed.")
        return 1
    status = console.render(results)
    chart.draw(results, known.plot)
    print(f"Kept in {_short(known.json)}; picture {_short(known.plot)}")
    return status if whole else 130


def _short(path: Path) -> str:
    """Path relative to the current folder, if it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    entry.run(main)
