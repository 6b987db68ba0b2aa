"""Blocks of calls on this machine, the check before them, and what else the CPUs did."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import definition

import fastattn
from fastattn._shapes import spec_of
from fastattn.tuner import measure
from fastattn.tuner.check import find_error, reference_rows
from fastattn.tuner.measure import Live, TrialError, numpy_dtype, sample_seconds
from fastattn.tuner.space import kernel, study
from fastattn.tuner.system import SystemMonitor, wait_until_idle

SHAPE = (2, 4, 2, 9, 12, 8, 5)
Fake = Callable[..., None]


class Clock:
    """A clock that calls advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Live, list[dict[str, Any]]]]:
    """A `Live` whose calls take the seconds given, one after the other, and their arguments."""

    def make(
        *seconds: float, then: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> tuple[Live, list[dict[str, Any]]]:
        clock, calls = Clock(), []

        def attention(*arrays: np.ndarray, **arguments: Any) -> None:
            fastattn.attention(*arrays, **(arguments | {"impl": "numpy", "config": None}))
            calls.append(arguments | {"arrays": arrays, "collecting": gc.isenabled()})
            clock.now += seconds[min(len(calls), len(seconds)) - 1]
            then(arguments)

        monkeypatch.setattr(measure, "attention", attention)
        spec = spec_of(SHAPE, "float32", causal=True)
        return Live(study(), spec, clock=clock), calls

    return make


def test_block_lengths() -> None:
    """Ten calls, but 5 to 20 ms."""
    assert [sample_seconds(each) for each in (1e-6, 1e-3, 5e-3, 1.0)] == [0.005, 0.01, 0.02, 0.02]


@pytest.mark.parametrize(
    ("call_seconds", "dropped", "calls"),
    [(1e-5, 2, 500), (1e-3, 2, 10), (5e-3, 2, 4), (0.01, 2, 2), (0.1, 1, 1), (0.3, 0, 1)],
)
def test_first_block(live: Any, call_seconds: float, dropped: int, calls: int) -> None:
    """After the check: one call for the threads, one to calibrate by; the longest all count."""
    source, made = live(call_seconds)
    point = study().points[0]
    assert source.sample(point) == pytest.approx(call_seconds)
    assert len(made) == 1 + dropped + calls
    assert source.preparation_seconds == pytest.approx(call_seconds)
    assert source.spent_seconds == pytest.approx((dropped + calls) * call_seconds)
    assert calls * call_seconds >= 0.9 * min(0.02, sample_seconds(call_seconds))


def test_later_blocks(live: Any) -> None:
    """They know how long a call takes, and drop the first, whatever it takes."""
    source, made = live(1e-3, *[1e-3] * 12, 4e-3, 1e-3)
    point = study().points[0]
    source.sample(point)
    before = len(made)
    assert before == 13
    assert source.sample(point) == pytest.approx(1e-3)
    assert len(made) - before == 11


def test_interruptions_do_not_count(live: Any) -> None:
    """A block is the lower quartile of its calls: most may be slowed down."""
    source, made = live(*[1e-3] * 13, 1e-3, *[5e-3, 1.1e-3, 9e-3, 1e-3, 2e-3] * 2)
    point = study().points[0]
    source.sample(point)
    assert len(made) == 13
    assert source.sample(point) == pytest.approx(1.1e-3)


def test_samples_begin_when_the_process_is_idle() -> None:
    """Each of them."""
    told: list[str] = []
    spec = spec_of(SHAPE, "float32", causal=True)
    source = Live(study(), spec, wait=lambda: told.append("idle"))
    for blocks in (1, 2):
        source.sample(study().points[0])
        assert told == ["idle"] * blocks


@pytest.mark.parametrize(("states", "looks"), [("", 1), ("RRS", 3)])
def test_settle(states: str, looks: int) -> None:
    """It looks until nobody computes."""
    left, seen = list(states), []

    def computing() -> bool:
        seen.append(0)
        return bool(left) and left.pop(0) == "R"

    assert wait_until_idle(computing, sleep=lambda seconds: None)
    assert len(seen) == looks


def test_settle_gives_up() -> None:
    """A thread that never stops is not waited for any longer."""
    ticks = itertools.count()
    assert not wait_until_idle(
        lambda: True, sleep=lambda seconds: None, clock=lambda: 0.1 * next(ticks)
    )


def test_settle_sees_threads() -> None:
    """One that computes is seen, one that sleeps is not."""
    assert wait_until_idle()
    stop, data = threading.Event(), bytes(1 << 24)

    def compute() -> None:
        while not stop.is_set():
            hashlib.sha256(data)  # without the GIL

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert not wait_until_idle()
    finally:
        stop.set()
        thread.join()


def test_calls(live: Any) -> None:
    """Into one array, aligned bottom-right, of the point's configuration and type."""
    source, made = live(2e-3)
    for point in (study().points[0], study().points[-1]):
        source.sample(point)
    first, last = made[0], made[-1]
    assert first["impl"] == last["impl"] == "cython"
    assert first["config"] == fastattn.Config(block_k=8, threads=1)
    assert last["config"] == fastattn.Config(block_k=64, threads=8)
    assert len({id(call["out"]) for call in made}) == 2
    assert [call["out"].dtype for call in (first, last)] == [np.float32, np.float64]
    assert all(call["align"] == "bottom_right" and call["causal"] for call in made)
    assert [x.shape for x in last["arrays"]] == [(2, 4, 9, 8), (2, 2, 12, 8), (2, 2, 12, 5)]
    q = first["arrays"][0]
    assert abs(q.mean()) < 0.2
    assert 0.8 < q.std() < 1.2
    assert np.array_equal(q, last["arrays"][0])
    source.start_repetition()


@pytest.mark.parametrize(("dim", "copies"), [(64, 8), (4200, 1)])
def test_small_arrays_have_copies(
    live: Any, monkeypatch: pytest.MonkeyPatch, dim: int, copies: int
) -> None:
    """The same numbers at other addresses; one copy for all of a repetition."""
    _, made = live(1e-3)
    spec = spec_of((1, 1, 1, 64, 64, dim), "float32", causal=False)
    monkeypatch.setattr(measure, "sample_seconds", lambda each: each)
    source = Live(study(), spec)
    seen = []
    for _ in range(16):
        before = len(made)
        for point in study().points[::2][:2]:  # of one data type
            source.sample(point)
        q, k, v = made[-1]["arrays"]
        assert all(
            call["arrays"][0] is q and call["out"] is made[-1]["out"] for call in made[before:]
        )
        seen.append((id(q), id(k), id(v), id(made[-1]["out"])))
        assert np.array_equal(q, made[0]["arrays"][0])
        source.start_repetition()
    assert len(set(seen)) == copies
    assert seen[:8] == seen[8:]


def test_no_collection(live: Any) -> None:
    """The collector rests while a block is timed, and works again."""
    source, made = live(1e-3)
    source.sample(study().points[0])
    assert gc.isenabled()
    assert [call["collecting"] for call in made] == [True] + [False] * (len(made) - 1)


def test_wrong_results_are_never_timed(live: Any) -> None:
    """A call whose result is off is a failure of the point, at once and for good."""

    def spoil(arguments: dict[str, Any]) -> None:
        arguments["out"][0] += 1e-3

    source, made = live(1e-3, then=spoil)
    for _ in range(2):
        with pytest.raises(TrialError, match="off by up to 0.001"):
            source.sample(study().points[0])
    assert len(made) == 1
    assert source.spent_seconds == 0


def test_what_writes_nothing_is_wrong(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the right result of another point is still there."""
    source, _ = live(1e-3)
    source.sample(study().points[0])
    monkeypatch.setattr(measure, "attention", lambda *arrays, **arguments: None)
    with pytest.raises(TrialError, match="not written"):
        source.sample(study().points[2])


@pytest.mark.parametrize("at", [1, 5])
def test_errors_are_failures(live: Any, at: int) -> None:
    """Whether the first call raises or a later one; the collector works again."""

    def fail(_: dict[str, Any]) -> None:
        if len(made) == at:
            raise MemoryError("no room")

    source, made = live(1e-3, then=fail)
    for _ in range(2):
        with pytest.raises(TrialError, match="MemoryError: no room"):
            source.sample(study().points[0])
    assert len(made) == at
    assert gc.isenabled()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, (1, 2, 1, 7, 3, 4), (1, 1, 1, 300, 300, 300)])
def test_expected_rows_are_the_definition(dtype: str, causal: bool, shape: tuple[int, ...]) -> None:
    """Rows in float64, and bounds that numpy's own result keeps and small faults exceed."""
    spec = spec_of(shape, dtype, causal=causal)
    rng = np.random.default_rng(0)
    q, k, v, _ = Live(study(), spec)._inputs_of(dtype).copies[0]
    expected = reference_rows(q, k, v, spec, rng)
    assert len(expected.exact) == 12
    align = "bottom_right" if causal else None
    wide = [x.astype(np.float64) for x in (q, k, v)]
    answer = definition(*wide, working=np.float64, causal=causal, align=align)
    assert np.allclose(expected.exact, answer.out[expected.rows], rtol=1e-12, atol=1e-13)
    out = fastattn.attention(q, k, v, causal=causal, align=align, impl="numpy")
    assert find_error(out, expected) is None
    fault = {"float16": 0.02, "bfloat16": 0.1}.get(dtype, 1e-4)
    wrong = out.copy()
    wrong[-1, -1, -1, -1] += numpy_dtype(dtype).type(fault * max(1, abs(wrong[-1, -1, -1, -1])))
    assert "off by" in find_error(wrong, expected)
    wrong = out.copy()
    wrong[0, 0, 0, -1] = np.nan
    assert "not written" in find_error(wrong, expected)


def test_every_point_of_a_small_problem_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Really: all implementations and instruction sets; blocks take time."""
    spec = spec_of((1, 2, 1, 8, 8, 4), "float32", causal=True)
    space = kernel(spec)
    monkeypatch.setattr(measure, "sample_seconds", lambda each: each)
    source = Live(space, spec)
    source.warm_up()
    ready = source.preparation_seconds
    for point in space.points:
        assert 0 < source.sample(point) < 1
    assert 0 < ready < source.preparation_seconds
    assert source.spent_seconds > 0


STAT = """cpu  0 0 0 0 0 0 0 0 0 0
cpu0 {0} 0 10 1000 5 1 1 {1} 0 0
cpu1 {0} 0 10 1000 5 1 1 {1} 0 0
intr 5
"""


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use two CPUs and takes 1 s of their time in 1 s."""
    times = iter([(0.0, 0.0), (1.0, 1.0)])
    now = [(0.0, 0.0)]

    def wall() -> float:
        now[0] = next(times)
        return now[0][0]

    system = "fastattn.tuner.system"
    monkeypatch.setattr(f"{system}.os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(f"{system}.os.sysconf", lambda _: 100)
    monkeypatch.setattr(f"{system}.time.perf_counter", wall)
    monkeypatch.setattr(f"{system}.time.process_time", lambda: now[0][1])


@pytest.mark.parametrize(
    ("ticks", "stolen", "usable", "contention"),
    [(50, 0, 2, 0.0), (80, 0, 2, 0.3), (50, 8, 2, 0.08), (100, 0, 1, 0.0), (120, 0, 1, 0.4)],
)
@pytest.mark.usefixtures("two_cpus")
def test_contention(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ticks: int,
    stolen: int,
    usable: int,
    contention: float,
) -> None:
    """What others took of our share: what CPUs beyond it can hold is not in the way."""
    here = fastattn.machine()
    monkeypatch.setattr(
        "fastattn.tuner.system.machine",
        lambda: dataclasses.replace(here, cpus=2, usable_cpus=usable),
    )
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(0, 0))
    monitor = SystemMonitor(stat)
    stat.write_text(STAT.format(ticks, stolen))
    load = monitor.load()
    assert load.contention == pytest.approx(contention)
    assert load.stolen == pytest.approx(stolen / 100)
    assert load.usable_cpus == usable


def test_an_unknown_load(tmp_path: Path) -> None:
    """Where the system does not tell, nothing is said; nor of a moment."""
    for text in (None, "", "cpu0 1 2\n", "nonsense"):
        stat = tmp_path / "stat"
        if text is not None:
            stat.write_text(text)
        load = SystemMonitor(stat).load()
        assert (load.others, load.stolen, load.contention) == (None, None, 0.0)
    assert SystemMonitor().load().others is None
