"""The picture of a search: every evaluation, the best so far, and the finalists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastattn._errors import ArgumentError, UnavailableError
from fastattn.tuner.result import TuningResult

__all__ = ["check_plot", "draw"]

_SUFFIXES = (".svg", ".png")
# Okabe and Ito's colours, which colour-blind readers can distinguish, as they can the markers.
_MEASURED, _DROPPED, _WINNER = "#0072B2", "#999999", "#D55E00"
_ROW_INCHES = 3.6


def check_plot(path: Path) -> None:
    """Refuse a file that `draw` could not write.

    Raises
    ------
    ArgumentError
        The suffix names no format.
    UnavailableError
        Matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        accepted = f"a file ending in {' or '.join(_SUFFIXES)}"
        raise ArgumentError("--plot", repr(str(path)), accepted, "rename it")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnavailableError(
            "--plot", str(path), "the package matplotlib", "pip install 'fastattn[tuner]'"
        ) from None


def draw(results: Sequence[TuningResult], path: Path) -> None:
    """Write the picture, a row for each result, as SVG or PNG.

    Left: each point's time over the default's, in the order of measurement, and the best so
    far.  Right: the finalists, with 95 % intervals.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "fastattn", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, _ROW_INCHES * len(results)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(
            len(results), 2, squeeze=False, gridspec_kw={"width_ratios": (1.2, 1)}
        )
        for (left, right), result in zip(rows, results, strict=True):
            _draw_search(left, result)
            _draw_finalists(right, result)
            for axes in (left, right):
                axes.grid(alpha=0.3)
                axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)


def _draw_search(axes: Any, result: TuningResult) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    found = result.search.evaluations
    ratios = [None if one.score is None else math.exp(one.score) for one in found]
    numbered = list(zip(itertools.count(1), ratios, found))
    for dropped, colour, marker, label in (
        (False, _MEASURED, "o", "measured"),
        (True, _DROPPED, "x", "dropped early"),
    ):
        chosen = [(n, r) for n, r, one in numbered if r is not None and one.dropped == dropped]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), marker, color=colour, label=label)
    best = list(itertools.accumulate((1.0 if r is None else r for r in ratios), min, initial=1.0))
    axes.step(range(len(best)), best, where="post", color=_WINNER, label="best so far")
    failed = [number for number, ratio, _ in numbered if ratio is None]
    if failed:
        highest = axes.get_ylim()[1]
        axes.plot(failed, [highest] * len(failed), "v", color="black", label="failed")
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="evaluations", ylabel="time / default's time", yscale="log")
    axes.set_title(result.problem, loc="left", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.legend(frameon=False, fontsize=8)


def _draw_finalists(axes: Any, result: TuningResult) -> None:
    rows = [row for row in reversed(result.rows) if row.seconds is not None]
    for height, row in enumerate(rows):
        assert row.ratio is not None
        low, high = row.interval or (row.ratio, row.ratio)
        winner = "winner" in row.remark
        axes.errorbar(
            row.ratio,
            height,
            xerr=[[row.ratio - low], [high - row.ratio]],
            marker="D" if winner else "o",
            color=_WINNER if winner else _MEASURED,
            capsize=3,
        )
    names = [row.name + (f" ({row.remark})" if row.remark else "") for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="time / default's time, 95 % interval")
    axes.set_title("final" if rows else "no final", loc="left", fontsize=8)
    axes.margins(y=0.2)
