"""Conditions of a measurement: what is read, when it counts as contended, what is kept."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common, sampling
from benchmarks import conditions as measured
from benchmarks.conditions import Contention, Monitor
from perf import conditions, run
from perf.peers import command

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("FASTATTN_ISA", raising=False)
    found = measured.facts()
    assert found["cpus"] == sorted(os.sched_getaffinity(0))
    assert found["variables"]["OMP_NUM_THREADS"] == "1"
    assert found["variables"]["FASTATTN_ISA"] is None
    assert found["threads"] >= 1
    assert conditions.machine().endswith(f"{os.cpu_count()} CPUs")
    json.dumps(found)


def test_what_forces_a_librarys_kernels_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert conditions.forced({"OMP_NUM_THREADS": "2", "FASTATTN_ISA": None}) is None
    monkeypatch.setattr(conditions, "find_spec", {"numpy": True, "torch": True}.get)
    for name in conditions.FORCING:
        monkeypatch.setenv(name, "x")
    blas: dict[str, Any] = {}
    dependencies = {"Build Dependencies": {"blas": blas}}

    def gathered() -> Any:
        return conditions.gather(lines(0.0))["facts"][0]["variables"]

    monkeypatch.setattr("numpy.show_config", lambda mode: dependencies)
    for name, variable in (("scipy-openblas", "OPENBLAS_CORETYPE"), ("mkl-sdl", "MKL_CBWR")):
        blas["name"] = name
        for found in (gathered(), command.about(0.0)["environment"]):
            words = conditions.forced(found)
            assert words is not None
            assert f"{variable}=x" in words
            assert "NPY_ENABLE_CPU_FEATURES=x" in words
            for absent in ("NVPL", "BLIS", "NUMBA_CPU"):  # nothing that is here reads them
                assert absent not in words
    monkeypatch.setattr(conditions, "find_spec", lambda name: None)
    blas.clear()
    assert conditions.forced(gathered()) is None


def test_stolen_time_is_that_of_our_cpus(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  0 0 0 0 0 0 0 9 0 0\ncpu0 0 0 0 0 0 0 0 4 0 0\ncpu10 0 0 0 0 0 0 0 5 0 0\n"
    )
    assert measured.steal_ticks([0], str(stat)) == 4
    assert measured.steal_ticks([0, 10], str(stat)) == 9
    assert measured.steal_ticks([0], str(tmp_path / "none")) == 0


@pytest.mark.timing
def test_time_in_which_we_did_not_run_is_lost() -> None:
    monitor = Monitor()
    time.sleep(0.2)  # as another process would have it
    found = monitor.stop()
    assert found.seconds >= 0.2
    assert found.lost_share > 0.5
    assert found.contended


@pytest.mark.parametrize(
    ("lost", "steal", "contended"),
    [(0.0, 0.0, False), (0.05, 0.02, False), (0.06, 0.0, True), (0.0, 0.03, True)],
)
def test_what_is_too_much(lost: float, steal: float, contended: bool) -> None:
    assert Contention(1.0, lost, steal, 9).contended is contended


# --- Recorded with results ---------------------------------------------------------------


def lines(*shares: float) -> list[str]:
    variables = {"OMP_NUM_THREADS": "1"}
    facts: dict[str, Any] = {"numpy": "2", "cpus": [1], "variables": variables}
    entries = [
        {"case": f"dim {i}", "seconds": 1.0, "lost_share": s, "steal_share": 0.0, "switches": 1}
        for i, s in enumerate(shares)
    ]
    return [json.dumps(entry | facts) for entry in entries]


def test_a_run_is_contended_where_more_than_a_tenth_of_it_is() -> None:
    few = conditions.gather(lines(*[0.0] * 9, 0.5))
    assert not few["contended"]
    assert [m["contended"] for m in few["measurements"]] == [False] * 9 + [True]
    many = conditions.gather(lines(*[0.0] * 8, 0.5, 0.7))
    assert many["contended"]
    assert [found["numpy"] for found in many["facts"]] == ["2"]
    assert conditions.warning(few) is None
    words = conditions.warning(many)
    assert words.startswith("CONTENDED: 2 of 10 measurements")
    assert "in the worst, dim 9, other processes used 70 %" in words


def test_runs_of_a_commit_add_up_beside_its_results(tmp_path: Path) -> None:
    assert conditions.load(tmp_path, "here", "c" * 40) == []
    for share in (0.0, 0.9):
        path = conditions.store(conditions.gather(lines(share)), tmp_path, "here", "c" * 40)
    assert path == tmp_path / "here/cccccccc.conditions"  # asv reads .json only
    assert [one["contended"] for one in conditions.load(tmp_path, "here", "c" * 40)] == [
        False,
        True,
    ]


@linux
def test_every_round_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own process, with the case's name."""
    note = tmp_path / "note"
    for name in common.BLAS_VARIABLES:
        monkeypatch.setenv(name, "1")
    profile = common.PROFILES["smoke"]
    cases = {("tiny", "float32"): common.Case(1, 1, 1, 8, 8, 4)}
    sampling.measure(cases, ("numpy",), profile)
    assert not note.exists()  # nobody asked
    monkeypatch.setenv(measured.RECORD_VARIABLE, str(note))
    cells = sampling.measure(cases, ("numpy",), profile)
    assert cells[("tiny", "float32"), "numpy"].failed is None
    entries = [json.loads(line) for line in note.read_text().splitlines()]
    assert [entry["case"] for entry in entries] == ["tiny, float32"] * profile.rounds
    assert conditions.gather(note.read_text().splitlines())["facts"]


def test_a_contended_run_is_marked_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "note"
    asked: list[list[str]] = []

    def measure(arguments: list[str], *_: object) -> int:
        asked.append(arguments)
        note.write_text("\n".join(lines(0.5)))
        return status

    for name in conditions.FORCING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTATTN_ISA", "avx2")
    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run.report, "RESULTS", tmp_path)
    session = run.Session("here", sys.stdout, {}, note)
    status = 1  # nothing was stored
    assert session.measure("c" * 40, ["--bench", "x"]) == 1
    assert conditions.load(tmp_path, "here", "c" * 40) == []
    status = 2
    assert session.measure("c" * 40, ["--bench", "x"]) == 2
    assert asked[0][:3] == ["c" * 40 + "^!", "--machine", "here"]
    assert asked[0][-2:] == ["--bench", "x"]
    assert conditions.load(tmp_path, "here", "c" * 40)[0]["contended"]
    printed = capsys.readouterr().out
    assert printed.count("Forced by the environment: FASTATTN_ISA=avx2.") == 1
