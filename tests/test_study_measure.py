"""How the report is measured: its pieces, each with what it measures replaced, and its command."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastattn

pytest.importorskip("rich", reason="the extra [report] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from study_records import synthetic  # noqa: E402

from benchmarks import common, roofline, sampling  # noqa: E402
from benchmarks.common import IMPLS  # noqa: E402
from perf.peers import command, timing  # noqa: E402
from perf.peers.results import Entry  # noqa: E402
from perf.study import __main__ as command_line  # noqa: E402
from perf.study import measure, page, turns  # noqa: E402
from perf.study.record import Record, Round  # noqa: E402

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
    monkeypatch.setattr(timing, "settle", lambda: settled.append(1))
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.001)
    found = turns.take(24, "float32", CONFIG, 0.01, seed=0)
    assert set(found.samples) == set(USABLE)
    lengths = {len(samples) for samples in found.samples.values()}
    assert len(lengths) == 1
    assert lengths.pop() >= sampling.LEAST_REPETITIONS
    assert len(settled) == sum(map(len, found.samples.values()))
    assert all(error is None or error < 8 for error in found.errors.values())
    assert set(found.reasons) == set(IMPLS) - set(USABLE)
    assert found.others is None or 0 <= found.others <= 1


def test_the_distance_of_the_cpus_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "settle", nothing)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.001)
    told = iter([1e-7, 2e-7, 2e-7, None])
    found = turns.take(24, "float32", CONFIG, 0.01, seed=0, distance=lambda: next(told, 3e-7))
    assert set(found.samples) == set(USABLE)
    assert {len(samples) for samples in found.samples.values()} == {len(found.distances)}
    assert found.distances[:3] == [2e-7, 2e-7, turns.FAR]


def test_rounds_with_the_cpus_apart_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(dim: int, tuning: Any, seconds: float, seed: int) -> Round:
        distances = [5e-7 if seed == 1 else 2e-7] * 10
        return Round({"numpy": [1.0] * 10}, others=0.0, distances=distances)

    monkeypatch.setattr(measure, "_round", one)
    record = empty()
    extent = replace(SMALL, dims=(64,))
    record.tunings = {"64": {}}
    measure.compare(record, extent, nothing, nothing)
    assert len(record.rounds["64"]) == extent.rounds + 1
    assert len(record.kept(64)) == extent.rounds


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
    monkeypatch.setattr(timing, "settle", nothing)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.001)
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
    monkeypatch.setattr(timing, "settle", nothing)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.001)
    found = turns.take(24, "float32", CONFIG, 0.01, seed=0)
    assert set(found.samples) == set(USABLE) - {USABLE[1]}
    assert "ArithmeticError" in found.failures[USABLE[1]]


def test_a_round_in_a_process_of_its_own() -> None:
    tuning = {"dtype": "float32", "config": CONFIG}
    found = measure._round(16, tuning, seconds=0.05, seed=1)
    assert set(found.samples) == set(USABLE), found.failures
    assert found.ratio("numpy", "numpy") == 1.0


def test_why_a_process_gave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = {"dtype": "float32", "config": CONFIG}

    def dies(words: list[str], **others: Any) -> Any:
        assert others["env"][common.BLAS_VARIABLES[0]] == str(command.usable_cpus())
        return subprocess.CompletedProcess(words, -11, "", "one\nlast words")

    monkeypatch.setattr(measure.subprocess, "run", dies)
    assert measure._round(16, tuning, 0.1, 0).failures == dict.fromkeys(
        IMPLS, "its process ended with -11: last words"
    )

    def late(words: list[str], **others: Any) -> Any:
        raise subprocess.TimeoutExpired(words, 1)

    monkeypatch.setattr(measure.subprocess, "run", late)
    assert "no result in 300 s" in measure._round(16, tuning, 0.1, 0).failures["cython"]


# --- The pieces ------------------------------------------------------------------------


def test_each_dim_is_tuned_in_the_study_space(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def tune(shape: Any, dtype: str, **options: Any) -> Any:
        options.pop("progress")(SimpleNamespace(phase="search", done=9))
        asked.append((shape, dtype, options))
        return SimpleNamespace(interrupted=False, to_json=lambda: {"dtype": dtype})

    monkeypatch.setattr(fastattn, "tune", tune)
    record, told = empty(), []
    measure.tune(record, SMALL, nothing, lambda done, text: told.append((done, text)))
    assert [shape for shape, _, _ in asked] == [(1, 1, 1, 64, 64, 64), (1, 1, 1, 128, 128, 128)]
    assert asked[0][1:] == (
        "float32",
        {"space": "study", "strategy": "genetic", "budget": 18, "seed": 0, "remember": False},
    )
    assert record.tunings == {"64": {"dtype": "float32"}, "128": {"dtype": "float32"}}
    assert told == [(0.25, "tuner, dim 64: search 9"), (0.75, "tuner, dim 128: search 9")]


def test_a_stopped_search_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SimpleNamespace(interrupted=True)
    monkeypatch.setattr(fastattn, "tune", lambda *shape, **options: stopped)
    record = empty()
    with pytest.raises(KeyboardInterrupt):
        measure.tune(record, SMALL, nothing, nothing)
    assert record.tunings == {}


def test_disturbed_rounds_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one dim, and not without end."""
    asked: list[tuple[int, int]] = []

    def one(dim: int, tuning: Any, seconds: float, seed: int) -> Round:
        asked.append((dim, seed))
        disturbed = (dim == 128 and seed != 2) or dim == 256
        return Round({"numpy": [1.0] * 10}, others=0.5 if disturbed else 0.01)

    monkeypatch.setattr(measure, "_round", one)
    record = empty()
    extent = replace(SMALL, dims=(64, 128, 256))
    record.tunings = {str(dim): {} for dim in extent.dims}
    measure.compare(record, extent, nothing, nothing)
    rounds = {dim: [seed for d, seed in asked if d == dim] for dim in extent.dims}
    assert rounds == {64: [0, 1], 128: [0, 1, 2, 3], 256: [0, 1, 2, 3]}
    assert asked[:3] == [(64, 0), (128, 0), (256, 0)]  # dims in turn
    assert record.disturbed() == [128, 256]
    assert record.kept(128)[0].others == 0.01


def test_the_roofline_is_that_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(cases: Any, impls: Any, profile: Any) -> Any:
        ((name, case),) = cases.items()
        assert case == (common.REGIMES | common.MASKED)[name]
        assert impls == ["cython"]
        assert profile.rounds == SMALL.regime_rounds
        cell = sampling.Cell(time=[1.0], time_over_peak=[2.0])
        return {(name, "cython"): cell if name == "small" else sampling.Cell(failed="wrong")}

    monkeypatch.setattr(roofline, "measure", held)
    record = empty()
    measure.hold_against_roofline(record, SMALL, nothing, nothing)
    assert record.roofline["small"] == {"time": [1.0], "time_over_peak": [2.0], "reason": None}
    assert record.roofline["dim-256"]["reason"] == "wrong"
    assert set(record.roofline_load) == {"others", "stolen"}


def test_without_torch_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "find_spec", lambda name: None)
    record = empty()
    measure.beside_torch(record, SMALL, nothing, nothing)
    assert record.peers is None
    assert "make peers" in record.peers_reason


def test_torch_is_compared_by_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def run(results: Any, cells: Any, threads: Any, seconds: float, tell: Any) -> None:
        assert cells == ("blog",)
        assert threads == tuple(dict.fromkeys((1, command.usable_cpus())))
        assert results.peers[0] == "cython"
        tell("blog", 1, "torch-sdpa")
        assert not kept
        results.entries.append(Entry("blog", 1, "cython", [1.0]))
        tell("blog", 1, "")
        raise RuntimeError("it died")

    monkeypatch.setattr(measure, "find_spec", lambda name: object())
    monkeypatch.setattr(command, "run", run)
    record = empty()
    measure.beside_torch(record, SMALL, lambda: kept.append(1), nothing)
    assert record.peer_results().get("blog", 1, "cython").samples == [1.0]
    assert record.peers_reason == "it died"
    assert kept == [1]


def test_an_interruption_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    done, kept, told = [], [], []

    def piece(name: str, stops: bool = False) -> Any:
        def act(record: Any, extent: Any, keep: Any, tell: Any) -> None:
            tell(0.5, name)
            done.append(name)
            if stops:
                raise KeyboardInterrupt

        return act

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(measure, "tune", piece("tuner"))
    monkeypatch.setattr(measure, "compare", piece("rounds", stops=True))
    monkeypatch.setattr(measure, "hold_against_roofline", piece("roofline"))
    monkeypatch.setattr(measure, "beside_torch", piece("peers"))
    record = empty()
    measure.run(record, SMALL, lambda: kept.append(1), lambda share, name: told.append(share))
    assert done == ["tuner", "rounds"]
    assert record.interrupted
    assert kept == [1]
    assert 0 < told[0] < told[1] < 1
    assert os.environ["FASTATTN_WISDOM"] == "off"
    assert sum(measure.FULL.shares().values()) == pytest.approx(1)


def test_what_is_told_of_the_run() -> None:
    about = measure.about(SMALL)
    assert about["cpus"] == command.usable_cpus()
    assert about["extent"]["dims"] == SMALL.dims
    assert {"commit", "versions", "machine", "system", "date", "load_average"} <= set(about)
    json.dumps(about)
    load = measure.median_load(synthetic((64, 128), disturbed=(128,)))
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


@pytest.mark.parametrize(("stopped", "status"), [(False, 0), (True, 130)])
def test_a_run(
    stopped: bool,
    status: int,
    tmp_path: Path,
    rendered: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(record: Record, extent: Any, keep: Any, tell: Any) -> None:
        assert extent.dims == (64, 128)
        assert extent.rounds == record.wanted == 3
        tell(0.5, "half")
        record.rounds = synthetic((64,)).rounds
        record.interrupted = stopped
        keep()

    monkeypatch.setattr(measure, "run", run)
    arguments = ["--quick", "--rounds", "3", "--folder", str(tmp_path / "report")]
    assert command_line.main(arguments) == status
    assert Record.read(tmp_path / "report/data.json").wanted == 3
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
