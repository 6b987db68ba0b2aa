"""Two pictures: how regrets are distributed, and how soon the best is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perf.tuner_replay.campaign import OURS
from perf.tuner_replay.results import EVALUATIONS, Cell, Results

__all__ = ["draw"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; dashes differ too.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#666666")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_LEAST, _MOST = 1e-3, 1.0  # regrets of the first picture


def draw(results: Results, path: Path) -> list[Path]:
    """Write both beside `path`: its stem with ``-regret`` and ``-course``, and its suffix."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "fastattn", "svg.fonttype": "none", "font.size": 9})
    settings = [name for name, equal in results.settings() if equal == EVALUATIONS]
    groups = {
        name: results.select(name, EVALUATIONS, True) or results.select(name, EVALUATIONS)
        for name in settings
    }
    written = []
    for word, panel in (("regret", _regrets), ("course", _courses)):
        file = path.with_name(f"{path.stem}-{word}{path.suffix}")
        _figure(groups, panel, results, file)
        written.append(file)
    return written


def _figure(
    groups: dict[str, list[Cell]],
    panel: Callable[[Any, Sequence[Cell], dict[str, Any]], None],
    results: Results,
    file: Path,
) -> None:
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(cell.strategy for cell in results.cells))
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1.5 + 4.2 * columns, 0.8 + 3.1 * rows), squeeze=False
    )
    figure.set_layout_engine("constrained")
    for axes, (setting, cells) in zip(grid.flat, groups.items(), strict=False):
        for name, style in zip(names, _styles(names), strict=True):
            mine = [cell for cell in cells if cell.strategy == name]
            if mine:
                panel(axes, mine, {**style, "label": name})
        count = len({cell.table for cell in cells})
        axes.set_title(f"{setting}, {count} table{'' if count == 1 else 's'}")
        axes.set(ylim=(0, 1.02))
        axes.set_yticks(np.linspace(0, 1, 6), [f"{p} %" for p in range(0, 101, 20)])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=120)
    plt.close(figure)


def _styles(names: Sequence[str]) -> list[dict[str, Any]]:
    """Line styles: ours is the thick blue line on top."""
    found: list[dict[str, Any]] = []
    for name in names:
        at = sum(style["color"] != "#0072B2" for style in found)
        found.append(
            {"color": "#0072B2", "linewidth": 2.6, "zorder": 3, "linestyle": "-"}
            if name == OURS
            else {
                "color": _COLOURS[at % len(_COLOURS)],
                "linestyle": _DASHES[at // len(_COLOURS) % len(_DASHES)],
                "linewidth": 1.3,
            }
        )
    return found


def _regrets(axes: Any, cells: Sequence[Cell], style: dict[str, Any]) -> None:
    """Share of replays whose regret is at most the value on the x-axis; tables count the same."""
    ticks = np.geomspace(_LEAST, _MOST, 200)
    shares = np.mean(
        [
            np.searchsorted(np.sort(cell.regrets), ticks, side="right") / len(cell.regrets)
            for cell in cells
        ],
        axis=0,
    )
    axes.plot(ticks, shares, **style)
    axes.axvline(0.02, color="#999999", linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlim=(_LEAST, _MOST))
    axes.set(xlabel="regret of the winner, at most", ylabel="share of replays")
    marks = (0.001, 0.005, 0.02, 0.05, 0.2, 1.0)
    axes.set_xticks(marks, [f"{100 * mark:g} %" for mark in marks])
    axes.minorticks_off()


def _courses(axes: Any, cells: Sequence[Cell], style: dict[str, Any]) -> None:
    """Share of replays whose leader by score is within 2 %, after each number of evaluations."""
    length = min(len(cell.course) for cell in cells)
    shares = np.mean([cell.course[:length] for cell in cells], axis=0)
    axes.plot(range(1, length + 1), shares, **style)
    axes.set(xlabel="evaluations, before the final", ylabel="leader within 2 % of the best")
    axes.set_xlim(0, length)
    axes.xaxis.get_major_locator().set_params(integer=True)
