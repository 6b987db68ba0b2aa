"""``fastattn tune``: find the best configurations for some problems, and remember them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError
from fastattn._machine import machine
from fastattn._shapes import AXES, SHAPE, parse_shape, spec_of
from fastattn._version import __version__
from fastattn._wisdom.entry import describe
from fastattn._wisdom.store import check_writable, replace_file
from fastattn.implementations import REGISTRY
from fastattn.tuner import TuningResult, tune
from fastattn.tuner.run import space_of
from fastattn.tuner.search import Event
from fastattn.tuner.space import SPACES
from fastattn.tuner.strategies import AUTO, STRATEGIES

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "find the fastest configuration for a problem on this machine, and remember it"

_EXAMPLE = "1,8,8,2048,2048,64"  # shape for which a space is shown if none is given
_ROWS = 20
_PROGRESS_SECONDS = 0.1
_SUMMARIES = {"auto": AUTO} | {name: one.SUMMARY for name, one in STRATEGIES.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Problems, how to search, and what to do with the results."""
    rows = (f"  {name:<19} {summary}" for name, summary in _SUMMARIES.items())
    parser.epilog = "\n".join(["strategies", *rows])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--shape", action="append", default=[], metavar=SHAPE, help=f"{AXES}; may be repeated")
    add("--dtype", default="float32", metavar="NAME", help=f"one of {', '.join(DTYPES)}")
    add("--causal", action="store_true", help="with a causal mask, aligned bottom-right")
    add(
        "--space",
        nargs="?",
        const="",
        metavar="NAME",
        help=f"space of configurations: {', '.join(SPACES)} (default kernel); "
        "without a name or a shape: show the spaces",
    )
    add("--strategy", default="auto", metavar="NAME", help="see below; default auto")
    add("--impl", default="auto", metavar="NAME", help=f"auto, {', '.join(REGISTRY)}")
    add("--budget", type=int, default=18, metavar="N", help="configurations to try, default 18")
    add("--seed", type=int, default=0, metavar="N", help="of all random choices, default 0")
    add(
        "--seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="time limit of a search, default 30",
    )
    add("--json", type=Path, metavar="FILE", help="write every measurement to a file")
    add("--no-remember", action="store_true", help="do not store the winners")


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> Iterator[str]:
    """Results, shape by shape, as they come; Ctrl-C ends with those so far.

    An option is refused before anything is measured.
    """
    if options.space == "" or not options.shape:
        yield _spaces(options)
        return
    problems = [parse_shape(text) for text in options.shape]
    space = options.space or "kernel"
    for axes in problems:
        space_of(space, spec_of(axes, options.dtype, causal=options.causal), options.impl)
    if options.json is not None:
        check_writable(str(options.json), "--json")
    results: list[TuningResult] = []
    for text, axes in zip(options.shape, problems, strict=True):
        progress(f"{text}: preparing")
        result = tune(
            axes,
            options.dtype,
            causal=options.causal,
            space=space,
            strategy=options.strategy,
            budget=options.budget,
            seed=options.seed,
            impl=options.impl,
            remember=not options.no_remember,
            seconds=options.seconds,
            progress=_reporter(text, progress),
        )
        progress("")
        results.append(result)
        yield f"{result}\n\n{_table(result)}\n"
        if options.json is not None:
            _write(options.json, results)
        if result.interrupted:
            raise KeyboardInterrupt


def _reporter(title: str, progress: Callable[[str], None]) -> Callable[[Event], None]:
    """Show a search's events on the progress line, at most ten in a second."""
    shown = float("-inf")

    def report(event: Event) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PROGRESS_SECONDS:
            shown = now
            unit = "points" if event.phase == "search" else "repetitions"
            progress(f"{title}: {event.phase}: {event.done} {unit}, best {event.ratio:.3f}")

    return report


def _spaces(options: argparse.Namespace) -> str:
    """Genes and values of the spaces, for the first shape or an example."""
    if options.space is None:
        raise ArgumentError("--shape", "none", f"at least one {SHAPE}", f"write --shape {_EXAMPLE}")
    text = options.shape[0] if options.shape else _EXAMPLE
    spec = spec_of(parse_shape(text), options.dtype, causal=options.causal)
    lines = [f"Spaces of configurations for {describe(spec)} on this machine"]
    for name in [options.space] if options.space else SPACES:
        space = space_of(name, spec, options.impl)
        width = max(len(", ".join(map(str, gene.values))) for gene in space.genes)
        lines += ["", f"{name}: {len(space)} points"]
        lines += [
            f"  {gene.name:<8} {', '.join(map(str, gene.values)):<{width}} {gene.meaning}"
            for gene in space.genes
        ]
    return "\n".join(lines)


def _write(path: Path, results: Sequence[TuningResult]) -> None:
    document = {
        "fastattn": __version__,
        "machine": dataclasses.asdict(machine()),
        "results": [result.to_json() for result in results],
    }
    replace_file(str(path), json.dumps(document, indent=1) + "\n", "--json")


def _table(result: TuningResult) -> str:
    """The points measured, the best first."""
    rows = result.rows[:_ROWS]
    width = max([13, *(len(row.name) for row in rows)])
    lines = [f"rank  {'configuration':<{width}}        time  ratio to the default (95 %)"]
    for rank, row in enumerate(rows, start=1):
        seconds = "" if row.seconds is None else _time(row.seconds)
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        if row.interval is not None and "default" not in row.remark:
            ratio += " ({:.3f} to {:.3f})".format(*row.interval)
        lines.append(f"{rank:4}  {row.name:<{width}}  {seconds:>10}  {ratio:<22}  {row.remark}")
    if len(result.rows) > _ROWS:
        lines.append(f"and {len(result.rows) - _ROWS} more")
    return "\n".join(line.rstrip() for line in lines)


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
