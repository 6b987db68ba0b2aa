"""What the pictures show."""

from __future__ import annotations

import functools
import itertools
import math
import re
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.common import IMPLS
from perf import report
from perf.peers.results import Results
from perf.study import formats
from perf.study.data import Record
from perf.study.formats import NAMES, SHORT
from perf.study.picture import (
    COLOURS,
    INCHES,
    INK,
    PANEL_INCHES,
    STYLES,
    Chart,
    legend,
    ticks,
)
from perf.study.published import STUDY
from perf.summary import Estimate


def figure_1(record: Record) -> list[Chart]:
    """The study's Figure 1: time, speed-up, variation; and its speed-ups as printed."""
    highest = _highest_speedup(record)
    return [
        Chart(
            "time",
            "Time of a call",
            "Time against dim, both logarithmic. "
            + _ends(record, lambda d, i: formats.seconds(record.seconds(d, i))),
            lambda figure: _time(figure, record),
        ),
        Chart(
            "speedup",
            "Speed-up over NumPy",
            "Speed-up over NumPy against dim. "
            + _ends(record, lambda d, i: formats.times(record.speedup(d, i)), IMPLS[1:]),
            lambda figure: _speedup(figure, record, highest),
        ),
        Chart(
            "variation",
            "Coefficient of variation",
            "Coefficient of variation against dim. "
            + _ends(record, lambda d, i: formats.percent(record.variation(d, i))),
            lambda figure: _variation(figure, record),
        ),
        Chart(
            "study-speedup",
            "The study’s speed-up, as printed",
            "The study’s speed-up over NumPy against dim, on the same scale as above. "
            + _ends(record, _printed, IMPLS[1:]),
            lambda figure: _study(figure, record, highest),
        ),
    ]


def _ends(record: Record, read: Callable[[int, str], str], impls: tuple[str, ...] = IMPLS) -> str:
    """What the lines show, at the smallest dim and at the greatest."""
    first, last = record.dims()[0], record.dims()[-1]
    lines = (
        f"{NAMES[impl]}: {read(first, impl)} at {first}, {read(last, impl)} at {last}"
        for impl in impls
    )
    return "; ".join(lines) + "."


def _printed(dim: int, impl: str) -> str:
    """The study's speed-up in words."""
    return formats.times(STUDY[dim].speedup(impl) if dim in STUDY else None)


def _time(figure: Any, record: Record) -> None:
    axes = _over_dims(figure, record, "Time of a call")
    axes.set_yscale("log")
    for impl in IMPLS:
        _line(axes, record.dims(), [record.seconds(dim, impl) for dim in record.dims()], impl)
    ticks(axes.yaxis, lambda value: re.sub(r"\.0+(?=\D)", "", report.seconds(value)))
    legend(axes)


def _speedup(figure: Any, record: Record, highest: float) -> None:
    axes = _over_dims(figure, record, "Speed-up over NumPy")
    axes.axhline(1, color=STYLES["numpy"]["color"], linestyle=STYLES["numpy"]["linestyle"])
    for impl in IMPLS[1:]:
        _line(axes, record.dims(), [record.speedup(dim, impl) for dim in record.dims()], impl)
    axes.set_ylim(0, highest)
    ticks(axes.yaxis, lambda value: f"{value:g}×")
    legend(axes)


def _study(figure: Any, record: Record, highest: float) -> None:
    axes = _over_dims(figure, record, "The study’s speed-up, as printed")
    axes.axhline(1, color=STYLES["numpy"]["color"], linestyle=STYLES["numpy"]["linestyle"])
    dims = [dim for dim in record.dims() if dim in STUDY]
    for impl in IMPLS[1:]:
        printed = [STUDY[dim].speedup(impl) for dim in dims]
        _line(axes, dims, [Estimate(value, value, value) for value in printed], impl)
    axes.set_ylim(0, highest)
    ticks(axes.yaxis, lambda value: f"{value:g}×")
    legend(axes)


def _variation(figure: Any, record: Record) -> None:
    axes = _over_dims(figure, record, "Coefficient of variation")
    axes.set_yscale("log")
    for impl in IMPLS:
        _line(axes, record.dims(), [record.variation(dim, impl) for dim in record.dims()], impl)
    ticks(axes.yaxis, lambda value: f"{100 * value:g} %")
    legend(axes)


def _highest_speedup(record: Record) -> float:
    """Top of the axis that our speed-ups and the study's share."""
    ours = (record.speedup(dim, impl) for dim in record.dims() for impl in IMPLS[1:])
    highest = [value.high for value in ours if value is not None]
    printed = [STUDY[d].speedup(i) for d in record.dims() if d in STUDY for i in IMPLS[1:]]
    return 1.08 * max([*highest, *printed, 1.0])


def roofline(record: Record) -> Chart | None:
    """Fraction of peak for each regime; None if nothing was measured."""
    shares = {
        name: [1 / value for value in found["time_over_peak"]]
        for name, found in record.roofline.items()
        if found["time_over_peak"]
    }
    if not shares:
        return None
    medians = {name: statistics.median(values) for name, values in shares.items()}
    low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    text = (
        f"Fraction of peak for {formats.plural(len(medians), 'regime')}: from "
        f"{formats.percent(medians[low])} ({low}) to {formats.percent(medians[high])} ({high})."
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        names, values = list(medians), list(medians.values())
        axes.barh(range(len(names)), values, height=0.62, color=COLOURS["cython"][0])
        for at, value in enumerate(values):
            axes.text(value + 0.012, at, f"{100 * value:.0f} %", va="center", fontsize=9)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, max(1.0, 1.15 * max(values)))
        axes.grid(axis="y", visible=False)
        axes.set_title("Fraction of peak, Cython on one thread", x=0)
        ticks(axes.xaxis, lambda value: f"{100 * value:g} %")

    return Chart(
        "roofline",
        "Fraction of peak, Cython on one thread",
        text,
        draw,
        (INCHES[0], 1.1 + 0.24 * len(medians)),
    )


def torch(record: Record) -> list[Chart]:
    """Times over ours: one picture for each number of threads."""
    results = record.peer_results()
    if results is None:
        return []
    return [_torch(results, threads) for threads in results.threads()]


def _torch(results: Results, threads: int) -> Chart:
    cells = results.cells(threads)
    names = [name for name in ("torch-sdpa", "torch-hand", "torch-mha") if name in results.peers]
    ratios = {(cell, name): results.ratio(cell, threads, name) for cell in cells for name in names}
    known = {key: value for key, value in ratios.items() if value is not None}
    title = f"Time over Cython’s, {formats.plural(threads, 'thread')}"
    sdpa = [value.median for (_, name), value in known.items() if name == "torch-sdpa"]
    text = "Above 1, Cython is faster. "
    if sdpa:
        text += (
            f"torch SDPA takes {formats.times(min(sdpa))} to {formats.times(max(sdpa))} its time."
        )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.axvline(1, color=INK, linewidth=1)
        for name in names:
            style = STYLES[name] | {"linestyle": "none"}
            rows = [
                (at, known[cell, name]) for at, cell in enumerate(cells) if (cell, name) in known
            ]
            for at, value in rows:
                axes.plot([value.low, value.high], [at, at], color=style["color"], linewidth=1.2)
            if rows:
                axes.plot(
                    [v.median for _, v in rows], [at for at, _ in rows], label=SHORT[name], **style
                )
        axes.set_xscale("log")
        axes.set_yticks(range(len(cells)), cells)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.set_title(title, x=0)
        _span(axes, [limit for value in known.values() for limit in (value.low, value.high)])
        ticks(axes.xaxis, lambda value: f"{value:g}×")
        legend(axes)

    return Chart(f"torch-{threads}", title, text, draw, (INCHES[0], 1.5 + 0.26 * len(cells)))


def searches(record: Record) -> list[Chart]:
    """The tuner’s searches: one small picture for each dim."""
    found = sorted(record.tunings.items(), key=lambda pair: int(pair[0]))
    return [
        Chart(
            f"search-{dim}",
            f"dim {dim}",
            f"Search at dim {dim}: {formats.plural(len(_scores(tuning)), 'evaluation')}; the best "
            f"takes {formats.times(min(filter(None, _scores(tuning)), default=None))} the "
            "default’s time.",
            functools.partial(_alone, dim=dim, tuning=tuning),
            PANEL_INCHES,
        )
        for dim, tuning in found
    ]


def all_searches(record: Record) -> Chart | None:
    """All searches in one picture, for Markdown."""
    found = sorted(record.tunings.items(), key=lambda pair: int(pair[0]))
    if not found:
        return None
    columns = min(4, len(found))
    rows = math.ceil(len(found) / columns)

    def draw(figure: Any) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (dim, tuning) in zip(grid, found, strict=False):
            _search(axes, dim, tuning)
        for axes in grid[len(found) :]:
            axes.set_visible(False)

    return Chart(
        "search",
        "The tuner’s searches",
        " ".join(chart.text for chart in searches(record)),
        draw,
        (columns * PANEL_INCHES[0], rows * PANEL_INCHES[1]),
    )


def _scores(tuning: dict[str, Any]) -> list[float | None]:
    """Each evaluation's time over the default's; None for one that failed."""
    return [
        math.exp(statistics.median(one["log_ratios"])) if one["log_ratios"] else None
        for one in tuning["search"]["evaluations"]
    ]


def _alone(figure: Any, dim: str, tuning: dict[str, Any]) -> None:
    _search(figure.subplots(), dim, tuning)


def _search(axes: Any, dim: str, tuning: dict[str, Any]) -> None:
    scores = _scores(tuning)
    best = list(itertools.accumulate((1.0 if s is None else s for s in scores), min, initial=1.0))
    axes.step(range(len(best)), best, where="post", color=COLOURS["cython"][0], linewidth=1.4)
    dropped = [one["dropped"] for one in tuning["search"]["evaluations"]]
    for wanted, marker, colour in ((False, "o", "cython"), (True, "x", "numpy")):
        points = [
            (at, score)
            for at, (score, out) in enumerate(zip(scores, dropped, strict=True), start=1)
            if score is not None and out == wanted
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=COLOURS[colour][0], markersize=4)
    axes.set_yscale("log")
    axes.set_title(f"dim {dim}", fontsize=9, pad=5)
    _span(axes, [1.0, *(score for score in scores if score is not None)], axis="y")
    ticks(axes.yaxis, lambda value: f"{value:g}×")


def _over_dims(figure: Any, record: Record, title: str) -> Any:
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xticks(record.dims(), [str(dim) for dim in record.dims()])
    axes.minorticks_off()
    axes.set(xlabel="dim", title=title)
    axes.tick_params(length=0)
    return axes


def _line(axes: Any, dims: list[int], values: list[Estimate | None], impl: str) -> None:
    known = [(dim, value) for dim, value in zip(dims, values, strict=True) if value is not None]
    if not known:
        return
    for dim, value in known:
        axes.plot([dim, dim], [value.low, value.high], color=STYLES[impl]["color"], linewidth=1)
    medians = [value.median for _, value in known]
    axes.plot([dim for dim, _ in known], medians, label=NAMES[impl], **STYLES[impl])


def _span(axes: Any, values: list[float], axis: str = "x") -> None:
    """Set limits of a logarithmic axis that hold the values and 1, and span a factor of two."""
    low, high = min([*values, 1.0]), max([*values, 1.0])
    spare = max(1.06, math.sqrt(2 / (high / low))) if high / low < 2 else 1.06
    (axes.set_xlim if axis == "x" else axes.set_ylim)(low / spare, high * spare)
