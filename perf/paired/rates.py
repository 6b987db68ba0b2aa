"""What many comparisons say about the driver: rates with exact bounds, real and simulated apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import conditions
from perf.paired import simulate
from perf.paired.rule import Rule
from perf.summary import clopper_pearson, sign_interval

LEAST_RECORDED = 12  # rounds of equal sides that a cell needs to be simulated

Lines = Sequence[Mapping[str, Any]]


def summary(lines: Lines, rule: Rule, times: int, unit: float) -> dict[str, Any]:
    """All rates.

    Parameters
    ----------
    lines : sequence of mapping
        Comparisons, as `calibrate` keeps them.
    times : int
        Simulated comparisons of equal sides; a tenth as many for each cell and effect.
    unit : float
        Unit of the log ratios that are kept.
    """
    equal = [one for one in lines if one["percent"] == 0]
    recorded = {
        name: values
        for name in _names(lines)
        if len(values := _rounds(equal, name)) >= LEAST_RECORDED
    }
    return {
        "machines": sorted({one["machine"] for one in lines}),
        "commits": sorted({one["commit"] for one in lines}),
        "suite": lines[0]["suite"],
        "threads": lines[0]["threads"],
        "minutes": round(sum(one["minutes"] for one in lines), 1),
        "rule": asdict(rule),
        "real": _real(lines, rule, unit),
        "simulated": _simulated(recorded, rule, times, unit) if times else {},
    }


def _names(lines: Lines) -> list[str]:
    return list(dict.fromkeys(name for one in lines for name in one["cells"]))


def _rounds(lines: Lines, name: str) -> list[int | None]:
    """Rounds of a cell from all stages: the stage makes no difference to their noise."""
    cells = [one["cells"][name] for one in lines if name in one["cells"]]
    return [v for c in cells for stage in ("screening", "confirming") for v in c.get(stage, [])]


def _rate(found: int, of: int) -> dict[str, Any]:
    low, high = clopper_pearson(found, of) if of else (0.0, 1.0)
    return {"found": found, "of": of, "low": round(low, 5), "high": round(high, 5)}


def _real(lines: Lines, rule: Rule, unit: float) -> dict[str, Any]:
    """By slowdown: whole comparisons that raised an alarm, and cells that were found."""
    answer = {}
    for percent in sorted({one["percent"] for one in lines}):
        these = [one for one in lines if one["percent"] == percent]
        verdicts = [{n: c["word"] for n, c in one["cells"].items()} for one in these]
        slowed = [word for one in verdicts for word in one.values()]
        row: dict[str, Any] = {
            "comparisons": len(these),
            "contended": sum(one["lost_share"] > conditions.LOST_SHARE for one in these),
            "cells": {name: _cell(these, name, rule, unit) for name in _names(these)},
        }
        if percent == 0:
            alarms = sum(bool({"worse", "better"} & set(one.values())) for one in verdicts)
            row["alarms"] = _rate(alarms, len(these))
        else:
            row["worse"] = _rate(slowed.count("worse"), len(slowed))
        answer[f"{percent:g}"] = row
    return answer


def _cell(lines: Lines, name: str, rule: Rule, unit: float) -> dict[str, Any]:
    verdicts = [one["cells"][name]["word"] for one in lines if name in one["cells"]]
    values = [unit * v for v in _rounds(lines, name) if v is not None]
    interval = sign_interval(values, rule.confidence)
    return {
        "words": {word: verdicts.count(word) for word in dict.fromkeys(verdicts)},
        "worse": _rate(verdicts.count("worse"), len(verdicts)),
        "rounds": len(values),
        "ratio": round(math.exp(statistics.median(values)), 4) if values else None,
        "interval": [round(math.exp(x), 4) for x in (interval.low, interval.high)]
        if values
        else None,
        "deviation": round(statistics.stdev(values), 5) if len(values) > 1 else None,
    }


def _simulated(
    recorded: Mapping[str, Sequence[int | None]], rule: Rule, times: int, unit: float
) -> dict[str, Any]:
    rounds = {n: [v if v is None else unit * v for v in many] for n, many in recorded.items()}
    if not rounds:
        return {}
    alarms = simulate.alarms(rounds, rule, times)
    cells = {}
    for name in rounds:
        counts = {
            effect: simulate.detections(rounds, rule, name, effect, max(1, times // 10))
            for effect in simulate.EFFECTS
        }
        cells[name] = {
            "smallest": simulate.smallest(counts),
            "worse": {f"{e:g}": _rate(c.found, c.of) for e, c in counts.items()},
        }
    return {"alarms": _rate(alarms.found, alarms.of), "cells": cells}


def markdown(result: Mapping[str, Any]) -> str:
    """Two tables, one of real comparisons and one of simulated ones."""
    commits = ", ".join(commit[:8] for commit in result["commits"])
    lines = [
        f"Suite {result['suite']}, {result['threads']} thread(s), {'; '.join(result['machines'])}; "
        f"commit {commits}; {result['minutes']:.0f} minutes of rounds, by "
        f"`{result['command']}`. In brackets: exact 95 % bounds.",
        "",
        "Real comparisons:",
        "",
        "| slower by | comparisons | with an alarm | cells called worse |",
        "|--:|--:|--:|--:|",
    ]
    for percent, row in result["real"].items():
        alarms, worse = (_format(row.get(key)) for key in ("alarms", "worse"))
        lines.append(f"| {percent} % | {row['comparisons']} | {alarms} | {worse} |")
    percents = list(result["real"])
    lines += [
        "",
        "| benchmark | deviation of a round | "
        + " | ".join(f"ratio at {p} % (called worse)" for p in percents)
        + " |",
        "|---" + "|--:" * (1 + len(percents)) + "|",
    ]
    for name in dict.fromkeys(n for row in result["real"].values() for n in row["cells"]):
        found = [row["cells"].get(name) for row in result["real"].values()]
        deviation = found[0]["deviation"] if found[0] else None
        lines.append(
            f"| {name} | {'-' if deviation is None else f'{100 * deviation:.2f} %'} | "
            + " | ".join(
                f"{c['ratio']:.3f} ({c['worse']['found']}/{c['worse']['of']})"
                if c and c["ratio"]
                else "-"
                for c in found
            )
            + " |"
        )
    if result["simulated"]:
        lines += _simulated_lines(result["simulated"])
    return "\n".join(lines)


def _simulated_lines(found: Mapping[str, Any]) -> list[str]:
    shown = ("0.02", "0.05", "0.1")
    lines = [
        "",
        "Simulated comparisons, of recorded rounds: "
        f"{_format(found['alarms'])} of equal sides raise an alarm.",
        "",
        "| benchmark | smallest effect found in 95 % | "
        + " | ".join(f"{100 * float(e):g} % found" for e in shown)
        + " |",
        "|---" + "|--:" * (1 + len(shown)) + "|",
    ]
    for name, cell in found["cells"].items():
        smallest = "-" if cell["smallest"] is None else f"{100 * cell['smallest']:g} %"
        rates = " | ".join(_format(cell["worse"][e]) for e in shown)
        lines.append(f"| {name} | {smallest} | {rates} |")
    return lines


def _format(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "-"
    low, high = 100 * rate["low"], 100 * rate["high"]
    return f"{rate['found']}/{rate['of']} [{low:.3g}, {high:.3g} %]"
