"""Draw the README's picture: ``python -m perf.chart FILE``, behind ``make chart``.

Reads the results that `make bench` stored for the current commit.  Left: time of a float32 call
against dim; right: speed-up over the implementation numpy.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from benchmarks.common import DIMS, IMPLS
from perf import entry, git, report

DTYPE = "float32"
# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers differ too.
STYLE = {"numpy": ("#666666", "s"), "numba": ("#E69F00", "^"), "cython": ("#0072B2", "o")}


def draw(results: report.Report, path: Path) -> None:
    """Write the picture, in the format that the file's suffix names."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "fastattn", "svg.fonttype": "none", "font.size": 10})
    import matplotlib.pyplot as plt

    figure, (times, ratios) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for impl in IMPLS:
        colour, marker = STYLE[impl]
        for axes, metric, unit in ((times, "track_time", 1e3), (ratios, "track_speedup", 1.0)):
            cells = [results.get(f"bench_attention.DimGrid.{metric}", d, impl, DTYPE) for d in DIMS]
            values = [math.nan if cell is None else cell * unit for cell in cells]
            axes.plot(DIMS, values, marker=marker, color=colour, label=impl)
    times.set(yscale="log", ylabel="milliseconds a call", title="Time (less is better)")
    ratios.set(ylabel="times numpy", title="Speed-up over numpy (more is better)", ylim=(0, None))
    for axes in (times, ratios):
        axes.set(xscale="log", xlabel="dim: Q, K, V are dim x dim, one head")
        axes.set_xticks(DIMS, [str(dim) for dim in DIMS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    times.legend(frameon=False)
    figure.suptitle(f"float32, one thread, {results.machine}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)


def main() -> int:
    """Run the command; exit status 1 if nothing is stored for the commit."""
    parser = argparse.ArgumentParser(prog="python -m perf.chart", description=__doc__)
    parser.add_argument("file", type=Path, help="where to write it: .svg, .png, ...")
    file = parser.parse_args().file
    results = report.load(report.RESULTS, git.commit("HEAD"))
    if results is None:
        print("No results are stored for this commit: run `make bench` first.")
        return 1
    draw(results, file)
    print(f"Wrote {file}")
    return 0


if __name__ == "__main__":
    entry.run(main)
