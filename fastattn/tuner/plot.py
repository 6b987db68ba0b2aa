"""The picture of a search: every evaluation, the best so far, and the finalists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastattn._errors import ArgumentError, UnavailableError, format_error
from fastattn.tuner.result import TuningResult

__all__ = ["check_plot", "draw"]

SUFFIXES = (".svg", ".png")
# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart too.
_MEASURED, _DROPPED, _WINNER = "#0072B2", "#999999", "#D55E00"
_PANEL_INCHES = 3.6


def check_plot(path: Path) -> None:
    """Refuse a file that `draw` could not write.

    Raises
    ------
    ArgumentError
        The ending names no format.
    UnavailableError
        Matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ArgumentError(
            format_error(
                "--plot", repr(str(path)), f"a file ending in {' or '.join(SUFFIXES)}", "name it"
            )
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnavailableError(
            format_error(
                "--plot", str(path), "the package matplotlib", "pip install 'fastattn[tuner]'"
            )
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
        figure = Figure(figsize=(11, _PANEL_INCHES * len(results)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            len(results), 2, squeeze=False, gridspec_kw={"width_ratios": (1.2, 1)}
        )
        for (left, right), result in zip(axes, results, strict=True):
            _search(left, result)
            _finalists(right, result)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)


def _search(axes: Any, result: TuningResult) -> None:
    found = result.search
    ratios = [None if one.score is None else math.exp(one.score) for one in found.evaluations]
    numbered = list(enumerate(ratios, start=1))
    for dropped, colour, marker, label in (
        (False, _MEASURED, "o", "measured"),
        (True, _DROPPED, "x", "dropped early"),
    ):
        chosen = [
            (number, ratio)
            for (number, ratio), one in zip(numbered, found.evaluations, strict=True)
            if ratio is not None and one.dropped == dropped
        ]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), marker, color=colour, label=label)
    best = list(itertools.accumulate((1.0 if r is None else r for r in ratios), min, initial=1.0))
    axes.step(range(len(best)), best, where="post", color=_WINNER, label="best so far")
    failed = [number for number, ratio in numbered if ratio is None]
    if failed:
        top = axes.get_ylim()[1]
        axes.plot(failed, [top] * len(failed), "v", color="black", label="failed")
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="evaluations", ylabel="time / default's time")
    axes.set_title(result.problem, loc="left", fontsize=8)
    axes.set_yscale("log")
    _plain_ticks(axes)
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)


def _finalists(axes: Any, result: TuningResult) -> None:
    rows = [row for row in result.rows if row.seconds is not None and row.ratio is not None]
    for at, row in enumerate(reversed(rows)):
        assert row.ratio is not None
        low, high = row.interval or (row.ratio, row.ratio)
        winner = "winner" in row.remark
        axes.errorbar(
            row.ratio,
            at,
            xerr=[[row.ratio - low], [high - row.ratio]],
            marker="D" if winner else "o",
            color=_WINNER if winner else _MEASURED,
            capsize=3,
        )
    names = [row.name + (f" ({row.remark})" if row.remark else "") for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="time / default's time, 95 % interval")
    axes.set_title("final" if rows else "no final", loc="left", fontsize=8)
    axes.margins(y=0.2)
    _tidy(axes)


def _plain_ticks(axes: Any) -> None:
    """Whole numbers of evaluations; ratios instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
