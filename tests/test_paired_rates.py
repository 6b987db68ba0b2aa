"""What the paired driver says of itself: tables of a comparison, rates of many, simulated ones."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from perf.paired import calibrate, rates, simulate, table
from perf.paired.engine import Comparison, Trouble
from perf.paired.rule import Round, Rule, Verdict

ABOUT = {
    "base": "a",
    "head": "b",
    "machine": "m",
    "suite": "smoke",
    "threads": 1,
    "minutes": 2.0,
}


def comparison() -> Comparison:
    rounds = [Round(x, 1e-3, 1.1e-3, 10, 2, lost_share=0.3) for x in (0.1, None, 0.11)]
    found = Comparison(("x", "y", "z", "w"), Rule(), {"x": rounds, "y": []}, {"x": rounds})
    found.verdicts = {
        "y": Verdict("unresolved", reason="no round counted"),
        "w": Verdict("same", 1.0, 0.99, 1.01, 0.97, None, 6, screened=True),
        "x": Verdict("worse", 1.1, 1.05, float("inf"), 0.97, 0.001, 16),
    }
    found.troubles = {"z": Trouble("cannot", "base: no compiler")}
    return found


def test_the_table_of_a_comparison() -> None:
    found = comparison()
    lines = table.markdown(found, ABOUT).splitlines()
    assert lines[0] == "**a → b**: 1 worse, 0 better, 1 same, 1 unresolved"
    assert "**Contended: others had 30 % of the CPU.**" in lines
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert rows == [
        "| x | 1.00 ms | 1.100 | 1.050 - inf | 16 | 20 % | **worse** |",
        "| w | - | 1.000 | 0.990 - 1.010 | 6* | - | same |",
        "| y | - | - | - | 0 | - | **unresolved**: no round counted |",
    ]
    assert "- z: base: no compiler" in lines


def test_the_record_is_json_without_infinities() -> None:
    found = comparison()
    text = json.dumps(table.record(found, ABOUT), allow_nan=False)
    kept = json.loads(text)
    assert kept["verdicts"]["x"]["high"] is None
    assert [one["log_ratio"] for one in kept["screening"]["x"]] == [0.1, None, 0.11]
    assert kept["troubles"]["z"]["kind"] == "cannot"


# --- Rates of many ---------------------------------------------------------------------


def line(percent: float, words: dict[str, str], rounds: list[int | None]) -> dict[str, Any]:
    cells = {name: {"word": word, "screening": rounds} for name, word in words.items()}
    about = {"percent": percent, "machine": "m", "commit": "c" * 40, "suite": "smoke"}
    return {**about, "threads": 1, "minutes": 1.5, "lost_share": 0.0, "cells": cells}


NOISE: list[int | None] = [100 * (i - 10) for i in range(20)] + [None]  # of 1e-5


def test_a_line_keeps_what_is_needed() -> None:
    kept = calibrate.line(comparison(), {"percent": 0})
    assert kept["cells"]["x"]["screening"] == [10000, None, 11000]
    assert kept["cells"]["x"]["confirming"] == [10000, None, 11000]
    assert "confirming" not in kept["cells"]["y"]
    assert kept["troubles"] == {"z": "base: no compiler"}
    assert kept["lost_share"] == 0.3
    json.dumps(kept, allow_nan=False)


def test_real_rates() -> None:
    lines = [
        line(0, {"Call x": "same", "DimGrid y": "same"}, NOISE),
        line(0, {"Call x": "same", "DimGrid y": "better"}, NOISE),
        line(5, {"Call x": "same", "DimGrid y": "worse"}, [5000] * 8),
        line(5, {"Call x": "same", "DimGrid y": "unresolved"}, [5000] * 8),
    ]
    found = rates.summary(lines, Rule(), 0, calibrate.UNIT) | {"command": "it"}
    equal, slowed = found["real"]["0"], found["real"]["5"]
    assert (equal["alarms"]["found"], equal["alarms"]["of"]) == (1, 2)
    assert "worse" not in equal
    assert (slowed["worse"]["found"], slowed["worse"]["of"]) == (1, 4)
    assert slowed["cells"]["DimGrid y"]["ratio"] == pytest.approx(1.0513, abs=1e-4)
    assert slowed["cells"]["DimGrid y"]["words"] == {"worse": 1, "unresolved": 1}
    assert found["minutes"] == 6
    assert found["simulated"] == {}
    text = rates.markdown(found)
    assert "| 0 % | 2 | 1/2 [1.26, 98.7 %] | - |" in text
    assert "| DimGrid y | 0.58 % | 1.000 (0/2) | 1.051 (1/2) |" in text
    assert "Simulated" not in text


def test_simulated_rates_stand_apart() -> None:
    lines = [line(0, {"DimGrid y": "same"}, NOISE)]
    found = rates.summary(lines, Rule(), 40, calibrate.UNIT) | {"command": "it"}
    assert found["real"]["0"]["comparisons"] == 1
    assert found["simulated"]["alarms"]["of"] == 40
    cell = found["simulated"]["cells"]["DimGrid y"]
    assert cell["worse"]["0.1"]["found"] == cell["worse"]["0.1"]["of"] == 4
    assert cell["worse"]["0.01"]["found"] == 0  # within the band
    assert 0.02 < cell["smallest"] <= 0.04
    text = rates.markdown(found)
    assert text.index("Real comparisons") < text.index("Simulated comparisons")


def test_few_rounds_are_not_simulated() -> None:
    lines = [line(0, {"DimGrid y": "same"}, NOISE[:6])]
    assert rates.summary(lines, Rule(), 40, calibrate.UNIT)["simulated"] == {}


# --- Simulation ------------------------------------------------------------------------


def test_a_simulated_round_is_a_recorded_one() -> None:
    rng = random.Random(1)
    source = simulate.Recorded({"a": [0.01, None], "b": [0.01]}, {"b": 0.1}, rng)
    drawn = [source.round(["a", "b"]) for _ in range(80)]
    assert {one["a"].log_ratio for one in drawn} == {0.01, -0.01, None}
    planted = {round(one["b"].log_ratio or 0.0, 6) for one in drawn}
    assert planted == {0.10531, 0.08531}


def test_rates_of_the_rule_at_two_per_cent_of_noise() -> None:
    """The bars of the driver: alarms of whole suites, and 5 and 10 % in one cell."""
    rng = random.Random(3)
    recorded = {f"cell {i}": [rng.gauss(0, 0.02) for _ in range(300)] for i in range(8)}
    assert simulate.alarms(recorded, Rule(), 200).found <= 4
    assert simulate.detections(recorded, Rule(), "cell 0", 0.05, 100).share >= 0.95
    assert simulate.detections(recorded, Rule(), "cell 0", 0.10, 100).share >= 0.99


def test_the_smallest_effect_has_all_larger_ones_found() -> None:
    def shares(*found: int) -> dict[float, simulate.Count]:
        return {0.01 * i: simulate.Count(n, 100) for i, n in enumerate(found, start=1)}

    assert simulate.smallest(shares(10, 95, 100)) == 0.02
    assert simulate.smallest(shares(100, 94, 100)) == 0.03
    assert simulate.smallest(shares(100, 100, 90)) is None
