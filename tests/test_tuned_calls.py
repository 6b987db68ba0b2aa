"""`make tuned`: what it measures, and what it says of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from remembered import SHAPE, WINNER, remember

import fastattn

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import common, sampling  # noqa: E402
from perf import tuned_calls  # noqa: E402

FOUND = {"winner": "cython threads=1", "not_remembered": None, "tuning_time": 2.5, "time": 2e-5}


def run(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], *words: str) -> int:
    """The command, with answers for each workload: what was found, or what is raised."""

    def measure(case: common.Case, *_: Any) -> dict[str, Any]:
        (name,) = (name for name, one in tuned_calls.CASES.items() if one == case)
        if isinstance(found[name], BaseException):
            raise found[name]
        return FOUND | found[name]

    monkeypatch.setattr(tuned_calls, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["tuned_calls", *words])
    return tuned_calls.main()


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "small": {"ratios": [0.79, 0.8, 0.83]},
        "decode": {"ratios": [1.0, 1.0, 1.0], "winner": "default", "not_remembered": "drift"},
    }
    assert run(monkeypatch, found, "small", "decode") == 0
    small, decode = capsys.readouterr().out.splitlines()[4:6]
    assert " ".join(small.split()) == "small 0.020 0.800 0.790 - 0.830 2.5 cython threads=1"
    assert decode.endswith("default  not remembered: drift")


def test_the_mean_is_geometric(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"small": {"ratios": [0.5]}, "decode": {"ratios": [2.0]}}
    assert run(monkeypatch, found, "small", "decode") == 1
    printed = capsys.readouterr().out
    assert "geometric mean 1.000, largest 2.000 (bar 1.02)" in printed
    assert [line.split()[0] for line in printed.splitlines() if "SLOWER" in line] == ["decode"]


def test_a_failure_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"small": RuntimeError("process ended with 1\nboom"), "decode": {"ratios": [1.0]}}
    assert run(monkeypatch, found, "small", "decode") == 2
    printed = capsys.readouterr().out
    assert "small        failed: boom" in printed
    assert "largest 1.000" in printed


def test_stopped_it_shows_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"small": {"ratios": [1.0]}, "decode": KeyboardInterrupt()}
    assert run(monkeypatch, found, "small", "decode", "bert") == 130
    printed = capsys.readouterr().out
    assert "Stopped" in printed
    assert "largest 1.000" in printed


@pytest.mark.parametrize(
    ("words", "said"), [(("huge",), "no workload huge"), (("--rounds", "0"), "at least 1")]
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, {}, *words)
    assert said in capsys.readouterr().err


def test_calls_find_what_was_tuned(
    monkeypatch: pytest.MonkeyPatch,
    wisdom_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tuned call follows wisdom, the other one does not."""
    case = common.Case(*SHAPE[:6])
    remember()
    blocks: dict[str, int | None] = {}

    def take_samples(calls: Any, *_: Any, **__: Any) -> dict[str, list[float]]:
        for name, call in calls.items():
            blocks[name] = fastattn.explain(*call.args, **call.keywords).config.block_q
        return {"tuned": [3.0, 1.0], "default": [2.0, 2.0]}

    monkeypatch.setattr(sampling, "take_samples", take_samples)
    request = {"what": "compare", "case": asdict(case), "seed": 0}
    tuned_calls.child(json.dumps(request | {"profile": asdict(common.PROFILES["smoke"])}))
    assert json.loads(capsys.readouterr().out) == {"time": 2.0, "ratio": 1.0}
    assert blocks["tuned"] == WINNER.block_q != blocks["default"]


def test_the_whole(wisdom_folder: Path) -> None:
    """Searched and compared in fresh processes, with wisdom of their own."""
    profile = replace(common.PROFILES["smoke"], rounds=2)
    found = tuned_calls.measure(common.Case(1, 1, 1, 8, 32, 8), profile, 0)
    assert len(found["ratios"]) == 2 and found["ratios"][0] > 0
    assert found["winner"]
    assert not wisdom_folder.exists()
