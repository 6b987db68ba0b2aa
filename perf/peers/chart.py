"""The picture of a run: a map of ratios, with one row per cell and one column per peer."""

from __future__ import annotations

import math
from pathlib import Path

from perf.peers import OURS
from perf.peers.console import shown
from perf.peers.results import Results

LARGEST = 4.0  # ratio beyond which the colour does not deepen


def draw(results: Results, path: Path) -> None:
    """Write the picture, in the format that the file's suffix names."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "fastattn", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    panels = results.threads()
    columns = {threads: [n for n in shown(results, threads) if n != OURS] for threads in panels}
    rows = max(len(results.cells(threads)) for threads in panels)
    widest = sum(len(names) for names in columns.values())
    figure, grid = plt.subplots(
        1,
        len(panels),
        figsize=(2.2 + 0.62 * max(widest, 4) + 1.0 * (len(panels) - 1), 1.9 + 0.27 * rows),
        layout="constrained",
        squeeze=False,
    )
    colours = mpl.colormaps["PuOr"].with_extremes(bad="#ffffff")
    scale = LogNorm(1 / LARGEST, LARGEST)
    for axes, threads in zip(grid[0], panels, strict=True):
        cells, names = results.cells(threads), columns[threads]
        values = [[_median(results, cell, threads, name) for name in names] for cell in cells]
        image = axes.imshow(values, cmap=colours, norm=scale, aspect="auto")
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if math.isfinite(value):
                    # Colour, weight and the number itself all show where we are slower.
                    axes.text(
                        *(x, y, f"{value:.2f}" if value < 9.95 else f"{value:.0f}"),
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color="white" if not 1 / 2.6 < value < 2.6 else "black",
                        weight="bold" if value < 1 else "normal",
                    )
        axes.set_xticks(range(len(names)), names, rotation=55, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(cells)), cells)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{threads} thread{'' if threads == 1 else 's'}", fontsize=10)
    bar = figure.colorbar(image, ax=grid[0].tolist(), ticks=[0.25, 0.5, 1, 2, 4], shrink=0.8)
    bar.ax.set_yticklabels(["1/4", "1/2", "1", "2", "4 and more"])
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    figure.suptitle(
        f"Time over that of fastattn's {OURS}: above 1 fastattn is faster, bold where it is slower"
        f"\n{results.about['machine']['processor']}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=130)
    plt.close(figure)


def _median(results: Results, cell: str, threads: int, peer: str) -> float:
    value = results.ratio(cell, threads, peer)
    return math.nan if value is None else value.median
