"""The method of the asv suite: agreement, turns and rounds, the roofline."""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastattn

pytest.importorskip("asv", reason="the extra [bench] is not installed")

from asv_runner.benchmarks.mark import SkipNotImplemented

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import child, common, oracle, roofline, sampling  # noqa: E402
from benchmarks.common import Case, Profile  # noqa: E402
from perf import roofline as command  # noqa: E402

# --- Agreement before timing -----------------------------------------------------------

GQA = Case(2, 4, 2, 70, 70, 16, causal=True)


@pytest.mark.parametrize("case", [GQA, GQA.of("float64"), common.SMALLEST], ids=str)
def test_a_right_result_passes(case: Case) -> None:
    q, k, v = common.inputs(case)
    result = fastattn.attention(q, k, v, causal=case.causal, impl="numpy")
    relative = oracle.relative_error(case, q, k, v, result)
    assert relative is None or 0 <= relative <= oracle.LIMIT


@pytest.mark.parametrize("dtype", common.DTYPES)
@pytest.mark.parametrize("wrong", ["scaled", "nan", "heads", "not causal", "last row"])
def test_a_wrong_result_is_refused(dtype: str, wrong: str) -> None:
    case = GQA.of(dtype)
    q, k, v = common.inputs(case)
    result = fastattn.attention(q, k, v, causal=wrong != "not causal", impl="numpy")
    if wrong == "scaled":
        result *= 1 + 100 * float(np.spacing(np.ones((), result.dtype)))
    elif wrong == "nan":
        result[..., 3] = np.nan
    elif wrong == "heads":
        result = result[:, ::-1]
    elif wrong == "last row":
        result[:, :, -10:] = result[:, :, :10]
    with pytest.raises(ArithmeticError, match="error"):
        oracle.relative_error(case, q, k, v, result)


# --- Sampling --------------------------------------------------------------------------


class Clock:
    """A clock that advances only when something is called, by less and less or more."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift = 0.0, drift

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * (1 + self.drift * self.now)


def profile(**changes: Any) -> Profile:
    return replace(common.PROFILES["standard"], **changes)


def test_orders_are_balanced_and_random() -> None:
    orders = sampling.balanced_orders("abc", random.Random(1))
    squares = [[next(orders) for _ in range(3)] for _ in range(50)]
    for square in squares:
        assert all(sorted(place) == ["a", "b", "c"] for place in zip(*square, strict=True))
    assert len({tuple(map(tuple, square)) for square in squares}) > 6


def test_samples_are_seconds_of_one_call() -> None:
    clock = Clock()
    calls = {"numpy": lambda: clock.work(4e-4), "cython": lambda: clock.work(1e-4)}
    samples = sampling.take_samples(calls, profile(), clock)
    assert {name: len(values) for name, values in samples.items()} == {"numpy": 18, "cython": 18}
    assert samples["cython"] == pytest.approx([1e-4] * 18)
    found = sampling.summary(samples["cython"], samples["numpy"])
    assert found["speedup"] == pytest.approx(4)
    assert found["time_over_numpy"] == pytest.approx(1 / 4)
    assert found["time"] == pytest.approx(1e-4)
    assert found["variation"] == pytest.approx(0, abs=1e-9)


def test_a_turn_lasts_long_enough_and_no_longer() -> None:
    clock = Clock()
    assert sampling.calls_per_block(lambda: clock.work(1e-5), 2e-3, clock) in (200, 201)
    assert sampling.calls_per_block(lambda: clock.work(1.0), 2e-3, clock) == 1


def test_drift_cancels_in_the_ratio() -> None:
    clock = Clock(drift=5.0)  # the machine gets slower and slower
    calls = {"numpy": lambda: clock.work(3e-3), "cython": lambda: clock.work(1e-3)}
    samples = sampling.take_samples(calls, profile(), clock)
    assert max(samples["cython"]) / min(samples["cython"]) > 1.3
    found = sampling.summary(samples["cython"], samples["numpy"])
    assert found["speedup"] == pytest.approx(3, rel=0.03)


def test_the_budget_ends_at_a_whole_square() -> None:
    clock = Clock()
    calls = {name: lambda: clock.work(1.0) for name in common.IMPLS}
    least = sampling.take_samples(calls, profile(budget_seconds=0.0), clock)
    assert {len(values) for values in least.values()} == {3}
    more = sampling.take_samples(calls, profile(budget_seconds=10.0), clock)
    assert {len(values) for values in more.values()} == {6}


def test_variation_is_deviation_over_mean() -> None:
    assert sampling.summary([1.0, 3.0], None) == {
        "time": 2.0,
        "variation": pytest.approx(math.sqrt(2) / 2),
    }


def test_tracks_skip_and_fail_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    Cell = sampling.Cell
    assert sampling.track(Cell(time=[1.0]), "time") == {"samples": [1.0], "number": 1}
    with pytest.raises(SkipNotImplemented):
        sampling.track(Cell(skipped="no compiler"), "time")
    assert "no compiler" in capsys.readouterr().out
    with pytest.raises(SkipNotImplemented):
        sampling.track(Cell(time=[1.0]), "speedup")
    with pytest.raises(RuntimeError, match="crashed"):
        sampling.track(Cell(failed="crashed"), "time")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in common.BLAS_VARIABLES:
        monkeypatch.setenv(name, "1")


TINY = {"tiny": Case(1, 1, 1, 8, 8, 4)}
QUICK = profile(rounds=2, repetitions=3, block_seconds=1e-4, budget_seconds=0.0)


@pytest.mark.usefixtures("one_thread")
def test_a_round_is_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "note"
    monkeypatch.setenv(common.PROGRESS_VARIABLE, str(note))
    cells = sampling.measure(TINY, ("numpy", "fortran"), QUICK)
    cell = cells["tiny", "numpy"]
    assert (cell.skipped, cell.failed) == (None, None)
    assert len(cell.time) == len(cell.variation) == len(cell.error) == 2
    assert cell.speedup == cell.time_over_numpy == [1.0, 1.0]
    assert cells["tiny", "fortran"].skipped == "this version does not have it"
    assert note.read_text().splitlines() == ["round 1 of 2: tiny", "round 2 of 2: tiny"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "process ended with -6"),
        ("import time; time.sleep(60)", "no result"),
    ],
)
def test_a_process_that_dies_or_hangs_fails_its_cells(
    monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    monkeypatch.setattr(child, "_CODE", code)
    monkeypatch.setattr(sampling, "ROUND_TIMEOUT_SECONDS", 1.0)
    cells = sampling.measure(TINY, ("numpy",), profile(rounds=1))
    assert reason in cells["tiny", "numpy"].failed


@pytest.mark.usefixtures("one_thread")
def test_a_wrong_implementation_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = fastattn.attention
    monkeypatch.setattr(fastattn, "attention", lambda *a, **k: real(*a, **k) * np.float32(1.01))
    request = {
        "case": asdict(GQA),
        "impls": ["numpy"],
        "profile": asdict(QUICK),
        "seed": 0,
        "threads": 1,
    }
    sampling.child(json.dumps(request))
    answer = json.loads(capsys.readouterr().out)
    assert "ArithmeticError" in answer["numpy"].pop("failed")
    assert answer == {"numpy": {}}


# --- The roofline -----------------------------------------------------------------------

ROOF = fastattn.Roofline(
    "avx2", 1, {"float32": 1e9, "float64": 5e8, "float16": 1e9, "bfloat16": 1e9}, 1e9, 4e9
)


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 4, 2, 12, 12, 8),
        Case(2, 4, 2, 5, 12, 8),
        Case(2, 4, 2, 12, 12, 8, causal=True),
        Case(2, 4, 2, 12, 12, 8, window=0),
        Case(2, 4, 2, 12, 12, 8, window=3),
        Case(2, 4, 2, 12, 12, 8, window=40),
        Case(2, 4, 2, 12, 12, 8, blocks=3),
    ],
    ids=str,
)
def test_work_is_that_of_the_keys_that_are_seen(case: Case) -> None:
    seen = case.seen(range(case.length_q))
    pairs = case.length_q * case.length_k if seen is None else np.count_nonzero(seen)
    assert roofline.work(case) == 2 * 4 * 2 * 2 * 8 * pairs  # two products, multiply and add


@pytest.mark.parametrize(
    ("dtype", "itemsize"), [("float32", 4), ("float64", 8), ("float16", 2), ("bfloat16", 2)]
)
def test_bytes_are_those_of_keys_and_values(dtype: str, itemsize: int) -> None:
    assert roofline.bytes_read(Case(4, 32, 8, 1, 4096, 128).of(dtype)) == (
        2 * 4 * 8 * 4096 * 128 * itemsize
    )


def test_the_longer_limit_is_the_peak() -> None:
    """Much work on few bytes, and many bytes for little work."""
    prefill = Case(1, 1, 1, 1000, 1000, 100)
    assert roofline.peak_seconds(prefill, ROOF) == pytest.approx(0.4)
    assert roofline.peak_seconds(prefill.of("float64"), ROOF) == pytest.approx(0.8)
    tiles = replace(ROOF, bfloat16_flops_per_second=8e9)
    slow = replace(ROOF, bfloat16_flops_per_second=5e8)
    old = SimpleNamespace(fma_flops_per_second={"bfloat16": 1e9}, stream_bytes_per_second=1e9)
    for roof, seconds in ((ROOF, 0.4), (tiles, 0.05), (slow, 0.4), (old, 0.4)):
        assert roofline.peak_seconds(prefill.of("bfloat16"), roof) == pytest.approx(seconds)
    assert roofline.peak_seconds(prefill.of("float16"), tiles) == pytest.approx(0.4)
    decode = Case(1, 1, 1, 1, 1000, 100)
    assert roofline.peak_seconds(decode, ROOF) == pytest.approx(8e-4)
    assert roofline.peak_seconds(decode.of("float16"), ROOF) == pytest.approx(4e-4)
    assert roofline.peak_seconds(prefill, ROOF) == pytest.approx(0.4)
    assert roofline.peak_seconds(decode, ROOF) == pytest.approx(8e-4)


def test_a_probe_takes_turns() -> None:
    """Its samples are what it returns, and its ratio to a call knows nothing of drift."""
    clock = Clock(drift=5.0)

    def probe() -> float:
        start = clock()
        clock.work(1e-3)
        return clock() - start

    calls = {"cython": lambda: clock.work(2e-3)}
    samples = sampling.take_samples(calls, profile(), clock, probes={"peak": probe})
    assert len(samples["peak"]) == len(samples["cython"]) == 18
    assert max(samples["peak"]) / min(samples["peak"]) > 1.1
    assert sampling.ratio(samples["cython"], samples["peak"]) == pytest.approx(2, rel=0.03)


@pytest.mark.usefixtures("one_thread")
def test_a_round_against_the_peak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probed = []

    def probe(isa: str | None, threads: int, *, seconds: float) -> fastattn.Roofline:
        probed.append((isa, threads, seconds))
        return ROOF

    monkeypatch.setattr(fastattn, "roofline", probe)
    for case in (Case(1, 1, 1, 8, 8, 4), Case(1, 1, 1, 8, 8, 4, blocks=2)):
        request = {
            "case": asdict(case),
            "impls": ["numpy", "fortran"],
            "profile": asdict(QUICK),
            "seed": 0,
            "threads": 1,
        }
        roofline.child(json.dumps(request))
        answer = json.loads(capsys.readouterr().out)
        found = answer["numpy"]
        expected = found["time"] / roofline.peak_seconds(case, ROOF)
        assert found["time_over_peak"] == pytest.approx(expected, rel=1e-6)
        assert (found.get("time_over_unmasked", 0) > 0) == (case.blocks > 1)
        assert answer["fortran"] == {"skipped": "this version does not have it"}
    assert set(probed) == {(None, 1, roofline.PROBE_SECONDS)}


def test_no_roofline_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastattn, "implementations", lambda: {"cython": "no compiler"})
    cells = roofline.measure(TINY, ("cython",), QUICK)
    assert cells["tiny", "cython"].skipped == "no compiler"
    monkeypatch.delattr(fastattn, "roofline")
    assert "no roofline" in roofline.measure(TINY, ("cython",), QUICK)["tiny", "cython"].skipped


def test_the_command_prints_a_row_a_regime(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*common.BLAS_VARIABLES, *common.UNTUNED):  # what the command sets
        monkeypatch.setenv(name, "")
    Cell = sampling.Cell

    def measure(
        cases: dict[str, Case], impls: list[str], profile: Profile, threads: int
    ) -> dict[tuple[str, str], sampling.Cell]:
        assert (profile.rounds, threads) == (3, 2)
        (name,) = cases
        good = Cell(time=[1e-3], time_over_peak=[2.0, 4.0], time_over_unmasked=[0.25])
        return {
            (name, impl): good if impl == "cython" else Cell(failed="a\nlong story")
            for impl in impls
        }

    roof = replace(ROOF, isa="amx", bfloat16_flops_per_second=3e12)
    monkeypatch.setattr(fastattn, "roofline", lambda threads: roof)
    monkeypatch.setattr(command, "missing", lambda: None)
    monkeypatch.setattr(command, "measure", measure)
    words = ["roofline", "blocks-2k", "--threads", "2", "--impl", "cython"]
    monkeypatch.setattr(sys, "argv", words)
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert "Limits of amx: 1.0 GFLOP/s" in printed
    assert "3000.0 GFLOP/s by products of bfloat16" in printed
    (line,) = [text for text in printed.splitlines() if "blocks-2k" in text]
    flops = roofline.work(common.MASKED["blocks-2k"]) / 1e-3 / 1e9
    assert {"1.000", f"{flops:.1f}", "0.375", "0.250", "0.500"} <= set(line.split())
    monkeypatch.setattr(sys, "argv", [*words, "numba"])
    monkeypatch.setattr(fastattn, "roofline", lambda threads: ROOF)
    assert command.main() == 2
    printed = capsys.readouterr().out
    assert "avx2 has no products of bfloat16" in printed
    assert "long story" in printed
    for wrong, told in ((["seven"], "no regime seven"), (["--impl", "numpy"], "1 thread")):
        monkeypatch.setattr(sys, "argv", [*words[:1], *wrong, *words[2:4]])
        with pytest.raises(SystemExit):
            command.main()
        assert told in capsys.readouterr().err


def test_the_command_may_be_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*common.BLAS_VARIABLES, *common.UNTUNED):  # what the command sets
        monkeypatch.setenv(name, "")

    def measure(cases: dict[str, Case], *_: Any) -> dict[tuple[str, str], sampling.Cell]:
        if "small" in cases:
            raise KeyboardInterrupt
        return {(name, "cython"): sampling.Cell(skipped="not here") for name in cases}

    monkeypatch.setattr(command, "missing", lambda: "no kernels")
    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["roofline", "bert", "small", "dim-256"])
    assert command.main() == 130
    printed = capsys.readouterr().out
    assert "bert" in printed and "Interrupted" in printed and "dim-256" not in printed
