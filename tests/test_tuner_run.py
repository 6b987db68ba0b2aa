"""`fastattn.tune`: from a shape to what is remembered."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import Idle, system_load

import fastattn
from fastattn.implementations import load
from fastattn.tuner import run
from fastattn.tuner.system import SystemMonitor

SHAPE = (1, 2, 2, 64, 64, 16)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch, wisdom_folder: Path) -> Path:
    """An idle machine on which small blocks are fast; the folder of its wisdom."""
    monkeypatch.setattr(run, "Live", Idle)
    monkeypatch.setattr(SystemMonitor, "load", lambda _: system_load())
    return wisdom_folder


def test_winners_serve_calls(idle: Path) -> None:
    """What wins is kept, and a later call of the kind is computed so."""
    result = fastattn.tune(SHAPE, budget=400)
    assert result.not_remembered is None
    assert result.remembered is not None
    assert idle in result.remembered.parents
    assert result.speedup > 1.1
    assert result.speedup_interval[0] < result.speedup < result.speedup_interval[1]
    assert result.selection_bound < 0.03
    assert result.exploration[0] == result.exploration[1] == result.evaluations
    assert result.preparation_seconds == 0.5
    q = np.zeros((1, 2, 64, 16), np.float32)
    explained = fastattn.explain(q, q, q)
    assert explained.impl == result.impl
    assert explained.config.block_q == result.config.block_q
    stored = json.loads(result.remembered.read_text())
    assert result.problem.split()[0] in json.dumps(result.to_json())
    assert stored
    again = fastattn.tune(SHAPE, budget=2, strategy="genetic", seed=5)
    assert (again.impl, again.config) == (result.impl, result.config)
    assert str(result.remembered) in str(result)


def test_an_implementation_has_winners_of_its_own(idle: Path) -> None:
    """Tuning one says nothing of which is best."""
    result = fastattn.tune(SHAPE, impl="numba")
    q = np.zeros((1, 2, 64, 16), np.float32)
    assert fastattn.explain(q, q, q, impl="numba").config.block_q == result.config.block_q
    assert fastattn.explain(q, q, q).impl == "cython"


def test_the_result_is_read(idle: Path) -> None:
    """By people and by programs."""
    result = fastattn.tune(SHAPE, causal=True, remember=False)
    words = str(result)
    for part in (
        "B=1 Hq=2 Hkv=2 Lq=64 Lk=64 D=16 Dv=16 float32 causal",
        result.impl,
        f"block_q={result.config.block_q}",
        f"{result.speedup:.3f} over the default",
        "behind the best finalist (95 %)",
        f"{result.evaluations} of {result.exploration[1]} points",
        "no: not requested",
    ):
        assert part in words
    document = json.loads(json.dumps(result.to_json()))
    assert document["config"] == result.config.explicit()
    assert document["speedup_interval"] == list(result.speedup_interval)
    assert document["load"]["usable_cpus"] == 2
    assert len(document["search"]["final_seconds"]) == 15
    assert document["remembered"] is None
    assert not result.interrupted
    ranked = [row.ratio for row in result.rows if row.seconds is not None]
    assert ranked == sorted(ranked)
    assert [row.seconds is None for row in result.rows] == sorted(
        row.seconds is None for row in result.rows
    )
    assert sum("winner" in row.remark for row in result.rows) == 1
    assert sum("default" in row.remark for row in result.rows) == 1
    assert len(result.rows) == result.evaluations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remember": False}, "not requested"),
        ({"space": "study"}, "winners of the space 'study' never are"),
        ({"seconds": 0.01}, "repetitions"),
    ],
)
def test_not_remembered(idle: Path, changes: dict[str, Any], words: str) -> None:
    """And why not."""
    result = fastattn.tune(SHAPE, **changes)
    assert result.remembered is None
    assert words in result.not_remembered
    assert not idle.exists()


def test_not_remembered_under_load(idle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others took is told."""
    monkeypatch.setattr(SystemMonitor, "load", lambda _: system_load(0.06))
    assert "others took 6 %" in fastattn.tune(SHAPE).not_remembered
    monkeypatch.setattr(SystemMonitor, "load", lambda _: system_load(0.04))
    assert fastattn.tune(SHAPE).remembered is not None


def test_a_folder_that_cannot_be_written(idle: Path) -> None:
    """Is no reason to lose the result."""
    idle.write_text("in the way")
    result = fastattn.tune(SHAPE)
    assert result.remembered is None
    assert str(idle) in result.not_remembered


def test_interrupted(idle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is is told, and not remembered."""
    monkeypatch.setattr(Idle, "interrupt", 30)
    result = fastattn.tune(SHAPE)
    assert result.interrupted
    assert result.remembered is None
    assert "interrupted" in str(result)
    assert result.evaluations > 0
    assert result.speedup == 1
    assert "none: the default is kept" in str(result)
    assert result.selection_bound is None


def test_a_default_that_fails(idle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to compare with."""
    monkeypatch.setattr(Idle, "fault", "out of order")
    with pytest.raises(fastattn.UnavailableError, match="out of order"):
        fastattn.tune(SHAPE)


@pytest.mark.parametrize(
    ("call_seconds", "budget", "seconds", "limit"),
    [
        (0.01, 18, 30, 4.2),
        (0.01, 4, 30, 4.2),
        (0.01, 36, 30, 8.4),
        (0.01, 18, 2, 2),
        (0.02, 18, 30, 30),
        (0.01, 18, math.inf, 4.2),
    ],
)
def test_time_limits(
    idle: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_seconds: float,
    budget: int,
    seconds: float,
    limit: float,
) -> None:
    """Quick kernels get 5 seconds in all for 18 evaluations, long ones what is given."""
    given: list[float] = []

    def search(*arguments: Any, **named: Any) -> Any:
        given.append(named["seconds"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Idle, "call_seconds", 0.97 * call_seconds)
    monkeypatch.setattr(Idle, "sample", lambda self, point: call_seconds)
    monkeypatch.setattr(run, "search", search)
    with pytest.raises(KeyboardInterrupt):
        fastattn.tune(SHAPE, budget=budget, seconds=seconds)
    assert given == [pytest.approx(limit, abs=0.2)]
    assert given[0] < limit


def test_time_without_end(idle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of long calls: the search has no limit, and measures."""
    monkeypatch.setattr(Idle, "sample", lambda self, point: 0.02)
    assert fastattn.tune(SHAPE, budget=4, seconds=math.inf).evaluations >= 4


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"shape": (1, 2, 3)}, fastattn.ArgumentError, "shape"),
        ({"shape": "1,2"}, fastattn.ArgumentError, "shape"),
        ({"shape": (1, 3, 2, 4, 4, 8)}, fastattn.ShapeError, "3 query heads"),
        ({"shape": (1, 2, 2, 0, 4, 8)}, fastattn.ArgumentError, "nothing to compute"),
        ({"dtype": "int8"}, fastattn.ArgumentError, "dtype"),
        ({"space": "outer"}, fastattn.ArgumentError, "space"),
        ({"strategy": "hope"}, fastattn.ArgumentError, "strategy"),
        ({"impl": "cuda"}, fastattn.ArgumentError, "impl"),
        ({"impl": "numpy", "space": "study"}, fastattn.ArgumentError, "study"),
        ({"budget": 0}, fastattn.ArgumentError, "budget"),
        ({"seconds": 0}, fastattn.ArgumentError, "seconds"),
        ({"seconds": float("nan")}, fastattn.ArgumentError, "seconds"),
        ({"budget": 2.5}, fastattn.ArgumentError, "budget"),
        ({"seed": -1}, fastattn.ArgumentError, "seed"),
        ({"seed": None}, fastattn.ArgumentError, "seed"),
    ],
)
def test_refusals(arguments: dict[str, Any], error: type[Exception], word: str) -> None:
    """Before anything is measured."""
    with pytest.raises(error, match=word):
        fastattn.tune(**({"shape": SHAPE} | arguments))


def test_an_implementation_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason is told."""
    monkeypatch.setattr(load("numba"), "missing", lambda: "no numba here")
    with pytest.raises(fastattn.UnavailableError, match="no numba here"):
        fastattn.tune(SHAPE, impl="numba")


def test_really(wisdom_folder: Path) -> None:
    """On this machine; every point is right."""
    heard: list[Any] = []
    result = fastattn.tune(
        (1, 2, 1, 40, 40, 8), impl="cython", budget=6, seed=3, progress=heard.append
    )
    assert result.impl == "cython"
    assert result.evaluations == min(6, result.exploration[1])
    assert all(one.failure is None for one in result.search.evaluations)
    assert {event.phase for event in heard} == {"search", "final"}
    assert (result.remembered is None) != (result.not_remembered is None)
    spent = result.kernel_seconds + result.optimiser_seconds + result.preparation_seconds
    assert spent <= result.tuning_seconds


def test_one_point() -> None:
    """There is nothing to choose, and nothing to remember."""
    result = fastattn.tune((1, 1, 1, 8, 8, 4), impl="numpy")
    assert result.exploration == (1, 1)
    assert result.remembered is None
    assert "nothing was compared" in result.not_remembered
