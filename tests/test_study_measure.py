"""How the report is measured: its pieces, each with what it measures replaced, and its command."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastattn

pytest.importorskip("rich", reason="the extra [report] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from study_records import synthetic  # noqa: E402

from benchmarks import child, sampling  # noqa: E402
from benchmarks.common import IMPLS  # noqa: E402
from perf import system  # noqa: E402
from perf.peers import command  # noqa: E402
from perf.study import __main__ as command_line  # noqa: E402
from perf.study import measure, page, turns  # noqa: E402
from perf.study.data import Record, Round  # noqa: E402

SMALL = replace(measure.QUICK, dims=(64, 128), rounds=2, regimes=("small", "dim-256"))
CONFIG = {"block_k": 16, "threads": 1}
USABLE = [impl for impl in IMPLS if fastattn.implementations()[impl] is None]


def empty() -> Record:
    return Record(synthetic((64,)).about, SMALL.rounds)


def nothing(*arguments: Any) -> None:
    pass


# --- One process -----------------------------------------------------------------------


def test_a_round_times_what_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = []
    monkeypatch.setattr(system, "settle", lambda: settled.append(1))
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.001)
    found = turns.take(24, "float32", CONFIG, 0.01, seed=0)
    assert set(found.samples) == set(USABLE)
    lengths = {len(samples) for samples in found.samples.values()}
    assert len(lengths) == 1
    assert lengths.pop() >= sampling.LEAST_REPETITIONS
    assert len(settled) == sum(map(len, found.samples.values()))
    assert all(error is None or error < 8 for error in found.errors.values())
    assert set(found.reasons) == set(IMPLS) - set(USABLE)
    assert found.others is None or 0 <= found.others <= 1


def test_processes_that_failed_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(dim: int, tuning: Any, seconds: float, seed: int) -> Round:
        if seed == 0:
            return Round(failures={"numpy": "no result in 300 s"})
        return Round({"numpy": [1.0] * 10}, others=0.1)

    monkeypatch.setattr(measure, "_round", one)
    record = empty()
    extent = replace(SMALL, dims=(64,))
    record.tunings = {"64": {}}
    measure.compare(record, extent, nothing, nothing)
    assert [one.samples for one in record.kept(64)] == [{"numpy": [1.0] * 10}] * extent.rounds
    assert record.failures() == {("numpy", "no result in 300 s"): [64]}


def test_only_cython_has_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: dict[str, set[Any]] = {impl: set() for impl in USABLE}
    attention = fastattn.attention

    def watched(*arrays: Any, impl: str, config: Any) -> Any:
        configs[impl].add(config)
        return attention(*arrays, impl=impl, config=config)

    monkeypatch.setattr(fastattn, "attention", watched)
    monkeypatch.setattr(system, "settle", nothing)
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.001)
    turns.take(24, "float32", CONFIG, 0.01, seed=0)
    found = {impl: {None} for impl in USABLE}
    if "cython" in found:
        found["cython"] = {fastattn.Config(**CONFIG)}
    assert configs == found


def test_what_disagrees_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right, judged = turns.oracle.relative_error, []

    def relative_error(case: Any, q: Any, k: Any, v: Any, result: Any) -> Any:
        judged.append(case)
        return right(case, q, k, v, result + 1 if len(judged) == 2 else result)

    monkeypatch.setattr(turns.oracle, "relative_error", relative_error)
    monkeypatch.setattr(system, "settle", nothing)
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.001)
    found = turns.take(24, "float32", CONFIG, 0.01, seed=0)
    assert set(found.samples) == set(USABLE) - {USABLE[1]}
    assert "ArithmeticError" in found.failures[USABLE[1]]


def test_a_round_in_a_process_of_its_own() -> None:
    tuning = {"dtype": "float32", "config": CONFIG}
    found = measure._round(16, tuning, seconds=0.05, seed=1)
    assert set(found.samples) == set(USABLE), found.failures
    assert found.ratio("numpy", "numpy") == 1.0


def test_a_process_that_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_CODE", "import sys; sys.exit('last words')")
    found = measure._round(16, {"dtype": "float32", "config": CONFIG}, 0.1, 0)
    assert found.failures == dict.fromkeys(IMPLS, "process ended with 1: last words")


# --- The pieces ------------------------------------------------------------------------


def test_contended_rounds_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one dim, and not without end."""
    asked: list[tuple[int, int]] = []

    def one(dim: int, tuning: Any, seconds: float, seed: int) -> Round:
        asked.append((dim, seed))
        contended = (dim == 128 and seed != 2) or dim == 256
        return Round({"numpy": [1.0] * 10}, others=0.5 if contended else 0.01)

    monkeypatch.setattr(measure, "_round", one)
    record = empty()
    extent = replace(SMALL, dims=(64, 128, 256))
    record.tunings = {str(dim): {} for dim in extent.dims}
    measure.compare(record, extent, nothing, nothing)
    rounds = {dim: [seed for d, seed in asked if d == dim] for dim in extent.dims}
    assert rounds == {64: [0, 1], 128: [0, 1, 2, 3], 256: [0, 1, 2, 3]}
    assert asked[:3] == [(64, 0), (128, 0), (256, 0)]  # dims in turn
    assert record.contended() == [128, 256]
    assert record.kept(128)[0].others == 0.01


def test_without_torch_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "find_spec", lambda name: None)
    record = empty()
    measure.beside_torch(record, SMALL, nothing, nothing)
    assert record.peers is None
    assert "make peers" in record.peers_reason


def test_what_is_told_of_the_run() -> None:
    about = measure.about(SMALL)
    assert about["cpus"] == command.usable_cpus()
    assert about["extent"]["dims"] == SMALL.dims
    assert {"commit", "versions", "machine", "system", "date", "load_average"} <= set(about)
    json.dumps(about)
    load = measure.median_load(synthetic((64, 128), contended=(128,)))
    assert load == {"others": pytest.approx(0.105), "most": 0.2, "stolen": 0.002}
    assert measure.median_load(empty())["most"] == 0.0


# --- The command -----------------------------------------------------------------------


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Records that were rendered."""
    page = pytest.importorskip("perf.study.page")
    found: list[Record] = []
    monkeypatch.setattr(page, "render", lambda record, folder: found.append(record) or [folder])
    return found


def test_kept_results_are_rendered_without_measuring(
    tmp_path: Path, rendered: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    record = synthetic((64, 128), rounds=2)
    record.write(tmp_path / "data.json")
    arguments = ["--data", str(tmp_path / "data.json"), "--folder", str(tmp_path)]
    assert command_line.main(arguments) == 0
    assert rendered == [record]
    assert "A short run" in capsys.readouterr().out


def test_two_runs_are_compared(
    tmp_path: Path, rendered: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    record = synthetic((64, 128))
    record.write(tmp_path / "a.json")
    for one in record.rounds["128"]:
        one.samples["cython"] = [1.04 * s for s in one.samples["cython"]]
    record.write(tmp_path / "b.json")
    arguments = ["--data", str(tmp_path / "b.json"), "--against", str(tmp_path / "a.json")]
    assert command_line.main(arguments) == 0
    assert "differ by at most 3.8 %" in capsys.readouterr().out
    for one in record.rounds["128"]:
        one.samples["cython"] = [1.04 * s for s in one.samples["cython"]]
    record.write(tmp_path / "b.json")
    assert command_line.main(arguments) == 1
    synthetic((256,)).write(tmp_path / "b.json")
    assert command_line.main(arguments) == 1
    assert "no dim in common" in capsys.readouterr().out


@pytest.mark.slow
def test_a_whole_run(
    tmp_path: Path, rendered: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search, rounds, roofline and threading, of as little as possible."""
    tiny = replace(SMALL, dims=(16,), rounds=1, seconds=0.05, regimes=("small",), cells=())
    monkeypatch.setattr(measure, "QUICK", tiny)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert command_line.main(["--quick", "--folder", str(tmp_path)]) == 0
    record = Record.read(tmp_path / "data.json")
    assert set(record.tunings["16"]["config"]) >= {"block_k", "threads"}
    assert record.dims() == [16]
    assert len(record.roofline["small"]["time_over_peak"]) == 1
    assert {one["load"] for one in record.sharing.get("ratios", [])} <= {"idle", "contended"}
    assert len(rendered) == 1


def test_a_drawing_may_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    synthetic((64,)).write(kept)

    def render(*_: object) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "render", render)
    assert command_line.main(["--data", str(kept), "--folder", str(tmp_path)]) == 130
    remedy = capsys.readouterr().out.splitlines()[-1]
    assert remedy.endswith(f"--data {kept}")


def test_a_run_of_nothing_fails(
    tmp_path: Path, rendered: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "run", nothing)
    assert command_line.main(["--quick", "--folder", str(tmp_path)]) == 1


def test_progress_is_told_now_and_then() -> None:
    times, told = iter([0.0, 0.0, 0.1, 0.6, 0.6]), []
    paced = command_line._paced(lambda done, text: told.append(text), lambda: next(times))
    for text in "abc":
        paced(0.1, text)
    assert told == ["a", "c"]


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--rounds", "0"], ["--data", "absent.json"], ["--against", "absent.json"]):
        with pytest.raises(SystemExit):
            command_line.parse(wrong)
    assert "give a data.json" in capsys.readouterr().err
