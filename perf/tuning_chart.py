"""A picture of tuning runs: ``python -m perf.tuning_chart FOUND.json FILE``.

Reads what ``fastattn tune --json`` wrote, and draws a row for each search.  Left: each point's
time over the default's, in the order of measurement, and the best so far.  Right: the finalists,
with 95 % intervals.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf import entry
from perf.files import Reading

# Okabe and Ito's colours, which colour-blind readers can distinguish, as they can the markers.
MEASURED, DROPPED, WINNER = "#0072B2", "#999999", "#D55E00"
ROW_INCHES = 3.6


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture, in the format that the file's suffix names."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "fastattn", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, ROW_INCHES * len(results)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(
            len(results), 2, squeeze=False, gridspec_kw={"width_ratios": (1.2, 1)}
        )
        for (left, right), result in zip(rows, results, strict=True):
            left.set_title(result["problem"], loc="left", fontsize=8)
            _draw_search(left, result["search"])
            _draw_finalists(right, result["search"])
            for axes in (left, right):
                axes.grid(alpha=0.3)
                axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)


def _draw_search(axes: Any, search: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    found = search["evaluations"]
    ratios = [
        None if one["failure"] is not None else math.exp(statistics.median(one["log_ratios"]))
        for one in found
    ]
    numbered = list(zip(itertools.count(1), ratios, found))
    for dropped, colour, marker, label in (
        (False, MEASURED, "o", "measured"),
        (True, DROPPED, "x", "dropped early"),
    ):
        chosen = [(n, r) for n, r, one in numbered if r is not None and one["dropped"] == dropped]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), marker, color=colour, label=label)
    best = list(itertools.accumulate((1.0 if r is None else r for r in ratios), min, initial=1.0))
    axes.step(range(len(best)), best, where="post", color=WINNER, label="best so far")
    failed = [number for number, ratio, _ in numbered if ratio is None]
    if failed:
        highest = axes.get_ylim()[1]
        axes.plot(failed, [highest] * len(failed), "v", color="black", label="failed")
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="evaluations", ylabel="time / default's time", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.legend(frameon=False, fontsize=8)


def _draw_finalists(axes: Any, search: Mapping[str, Any]) -> None:
    standings = [] if search["decision"] is None else search["decision"]["standings"]
    values = {tuple(one["point"]): one["values"] for one in search["evaluations"]}
    finalists = zip(map(tuple, search["finalists"]), standings, strict=True)
    rows = sorted(finalists, key=lambda row: -row[1]["ratio"])
    names = []
    for height, (point, standing) in enumerate(rows):
        ratio = standing["ratio"]
        low, high = standing["interval"] or (ratio, ratio)
        winner = point == tuple(search["winner"])
        axes.errorbar(
            ratio,
            height,
            xerr=[[ratio - low], [high - ratio]],
            marker="D" if winner else "o",
            color=WINNER if winner else MEASURED,
            capsize=3,
        )
        name = " ".join(f"{gene}={value}" for gene, value in values.get(point, {}).items())
        names.append((name or str(point)) + (" (winner)" if winner else ""))
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="time / default's time, 95 % interval")
    axes.set_title("final" if rows else "no final", loc="left", fontsize=8)
    axes.margins(y=0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m perf.tuning_chart", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("found", type=Path, help="what `fastattn tune --json` wrote")
    parser.add_argument("file", type=Path, help="where to write the picture: .svg, .png, ...")
    options = parser.parse_args(arguments)
    with Reading(options.found):
        results = json.loads(options.found.read_text(encoding="utf-8"))["results"]
    draw(results, options.file)
    print(f"Wrote {options.file}")
    return 0


if __name__ == "__main__":
    entry.run(main)
