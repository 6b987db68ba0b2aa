"""The asv benchmark of the tuner: what it measures, and what asv is told of it.

`test_benchmarks_smoke` runs it whole.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastattn

json5 = pytest.importorskip("json5", reason="the extra [bench] is not installed")
pytest.importorskip("asv_runner", reason="the extra [bench] is not installed")

from asv_runner.benchmarks.mark import SkipNotImplemented  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import common, sampling, tuned  # noqa: E402
from benchmarks.bench_tuner import Genetic  # noqa: E402
from perf import report  # noqa: E402

SMOKE = common.PROFILES["smoke"]
WINNER = {"block": 16, "threads": 1, "dtype": "float32"}
DEFAULT = {"block": 64, "threads": 2, "dtype": "float32"}
FOUND = {
    "winner": WINNER,
    "default": DEFAULT,
    "evaluations": 18,
    "tuning_time": 2.5,
    "time_over_best": 1.01,
    "time_over_default": 0.75,
}
needs_cython = pytest.mark.skipif(
    fastattn.implementations()["cython"] is not None, reason="the study's space is cython's"
)


class Clock:
    """Time that passes while calls are made: as long as their point takes."""

    def __init__(self, times: dict[int, float]) -> None:
        self.now, self.times, self.calls = 0.0, times, 0

    def __call__(self) -> float:
        return self.now

    def call(self, block: int) -> None:
        self.calls += 1
        self.now += self.times[block]


def test_points_are_held_against_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({16: 1e-4, 32: 2e-4, 64: 4e-4})
    monkeypatch.setattr(tuned, "bound", lambda dim, p: lambda: clock.call(p["block"]))
    points = [DEFAULT | {"block": block} for block in (16, 32)]
    assert tuned.over(64, points, DEFAULT, SMOKE, clock) == pytest.approx([0.25, 0.5])


def test_long_calls_end_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({16: 0.5, 64: 1.0})
    monkeypatch.setattr(tuned, "bound", lambda dim, p: lambda: clock.call(p["block"]))
    assert tuned.over(64, [WINNER], DEFAULT, SMOKE, clock) == pytest.approx([0.5])
    # One call each to find the block's length, then three repetitions, none of them dropped.
    assert clock.calls == 2 * 1 + 2 * sampling.LEAST_REPETITIONS


def test_a_winner_that_is_the_default_takes_its_time() -> None:
    assert tuned.afresh(64, DEFAULT, DEFAULT, SMOKE) == {"time_over_default": 1.0}


@needs_cython
def test_a_point_is_the_public_call_and_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in common.BLAS_VARIABLES:
        monkeypatch.setenv(name, "1")
    point = {"block": 32, "threads": 2, "dtype": "float64"}
    result = tuned.bound(64, point)()
    assert (result.shape, result.dtype.name) == ((1, 1, 64, 64), "float64")
    call = tuned.bound(64, point)
    assert call.keywords["impl"] == "cython"
    assert call.keywords["config"] == fastattn.Config(block_k=32, threads=2)

    def wrong(*_: Any) -> None:
        raise ArithmeticError("error 100 times the naive one")

    monkeypatch.setattr(tuned.oracle, "relative_error", wrong)
    with pytest.raises(ArithmeticError, match="100 times"):
        tuned.bound(64, point)


def test_the_winner_is_held_against_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def tune(shape: tuple[int, ...], **words: Any) -> Any:
        asked.update(words, shape=shape)
        config = fastattn.Config(block_k=16, threads=1)
        return SimpleNamespace(config=config, dtype="float32", evaluations=2, tuning_seconds=1.5)

    def over(dim: int, points: list[dict[str, Any]], baseline: Any, profile: Any) -> list[float]:
        assert baseline == WINNER
        assert len({json.dumps(point) for point in points}) == 32
        return [0.8 if point["block"] == 8 else 1.3 for point in points]

    monkeypatch.setattr(fastattn, "tune", tune)
    monkeypatch.setattr(tuned, "over", over)
    found = tuned.searched(64, SMOKE)
    assert found["time_over_best"] == pytest.approx(1 / 0.8)
    assert found["winner"] == WINNER
    assert found["default"] == study_default()
    assert (found["evaluations"], found["tuning_time"]) == (2, 1.5)
    expected = {"space": "study", "strategy": "genetic", "budget": 18, "remember": False}
    assert expected.items() <= asked.items()
    assert asked["shape"] == (1, 1, 1, 64, 64, 64)


def study_default() -> dict[str, Any]:
    """The baseline of a search of the study's space, by the tuner's own account."""
    from fastattn._shapes import spec_of
    from fastattn.tuner.space import default_point, study

    spec = spec_of((1, 1, 1, 64, 64, 64))
    return study().values(default_point(study(), spec))


@needs_cython
def test_the_studys_space_is_the_one_that_is_gone_through() -> None:
    from fastattn.tuner.space import study

    space = study()
    mine = itertools.product(tuned.BLOCKS, tuned.THREADS, common.WIDE)
    assert list(mine) == [tuple(space.values(point).values()) for point in space.points]


def test_a_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("process ended with 1")

    monkeypatch.setattr(tuned, "_missing", lambda: None)
    monkeypatch.setattr(tuned, "ask", fail)
    found = tuned.measure((64, 128), SMOKE)
    with pytest.raises(RuntimeError, match="process ended with 1"):
        tuned.track(found[128], "time_over_best")


def test_versions_without_a_tuner_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastattn", SimpleNamespace())
    found = tuned.measure((64,), SMOKE)
    assert found == {64: {"skipped": "this version has no tuner"}}
    with pytest.raises(SkipNotImplemented):
        tuned.track(found[64], "winner", "block")


def test_tracks_are_what_was_found() -> None:
    genetic, found = Genetic(), {64: FOUND}
    tracks = {
        name.removeprefix("track_"): getattr(genetic, name)(found, 64)
        for name in dir(genetic)
        if name.startswith("track_")
    }
    assert tracks == {
        "time_over_default": 0.75,
        "time_over_best": 1.01,
        "block": 16,
        "threads": 1,
        "dtype_bits": 32,
        "evaluations": 18,
        "tuning_time": 2.5,
    }


def test_what_was_chosen_is_no_regression() -> None:
    patterns = json5.loads((ROOT / "asv.conf.json").read_text())["regressions_first_commits"]

    def excluded(track: str) -> bool:
        name = f"bench_tuner.Genetic.track_{track}"
        return any(re.match(p, name) for p, first in patterns.items() if first is None)

    chosen = ("block", "threads", "dtype_bits", "evaluations")
    measured = ("time_over_default", "time_over_best", "tuning_time")
    assert all(map(excluded, chosen))
    assert not any(map(excluded, measured))


def test_cpus_are_those_that_run_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: taken.append(list(cpus)), False)
    monkeypatch.setenv(common.CPUS_VARIABLE, "0,3")
    tuned._use_all_cpus()
    monkeypatch.delenv(common.CPUS_VARIABLE)
    tuned._use_all_cpus()
    assert taken == [[0, 3]]


def test_the_report_has_a_row_a_dim() -> None:
    pytest.importorskip("rich", reason="the extra [bench] is not installed")
    names = ("time_over_default", "time_over_best", "block", "threads", "dtype_bits")
    names += ("evaluations", "tuning_time")
    values = {f"bench_tuner.Genetic.track_{name}": {(64,): 2.0, (128,): 3.0} for name in names}
    table = report.tuner_table(report.Report("c", "m", "3.11", values))
    assert table.row_count == 2
    assert [list(column.cells)[1] for column in table.columns] == [
        *("128", "3.00x", "3.00x", "3", "3", "3", "3", "3.00 s")
    ]
    assert report.tuner_table(report.Report("c", "m", "3.11", {})).row_count == 0
