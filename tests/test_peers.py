"""The comparison with other libraries: its registry, cells, timing and runs, with few of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn

pytest.importorskip("rich", reason="the extra [bench] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from peer_results import LIMITS, synthetic  # noqa: E402

from benchmarks import common, oracle  # noqa: E402
from benchmarks.common import Case  # noqa: E402
from perf import peers, system  # noqa: E402
from perf.peers import __main__ as command_line  # noqa: E402
from perf.peers import accuracy, cells, command, timing  # noqa: E402
from perf.peers.cells import CELLS, Cell  # noqa: E402
from perf.peers.peer import Bound, Peer, fold, owns_its_cpus  # noqa: E402
from perf.peers.results import Results  # noqa: E402

TINY = Case(2, 4, 4, 12, 12, 8)


# --- The registry ----------------------------------------------------------------------


def test_a_peer_describes_itself() -> None:
    found = peers.registry()
    assert list(found)[:3] == ["cython", "numba", "numpy"]
    assert peers.OURS in found
    for name, peer in found.items():
        assert name == peer.name
        assert peer.summary
        assert peer.modules
        assert set(peer.dtypes) <= set(cells.SUFFIXES)
        assert peer.ours == (name in common.IMPLS)


def test_every_peer_file_is_listed() -> None:
    folder = ROOT / "perf/peers"
    files = {p.stem for p in folder.glob("*.py") if "\nPEERS = " in p.read_text()}
    assert files == set(peers.FILES)


def _nothing(*arguments: Any) -> Bound:
    raise NotImplementedError


def test_what_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_broken_module.py").write_text("raise ImportError('libfoo.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    grouped = Case(1, 4, 2, 8, 8, 4, causal=True)
    absent = Peer("a", "", ("no_such_module.inside",), ("float32",), _nothing)
    assert "not installed: make peers" in absent.missing(TINY, 1)
    broken = Peer("a", "", ("a_broken_module",), ("float32",), _nothing)
    assert "libfoo.so" in broken.missing(TINY, 1)
    peer = Peer("a", "", ("json",), ("float32",), _nothing, grouped=False)
    assert peer.missing(TINY, 1) is None
    assert "float64" in peer.missing(TINY.of("float64"), 1)
    assert "groups" in peer.missing(grouped, 1)
    never = Peer("a", "", ("json",), ("float32",), _nothing, refuses=lambda case, threads: "no")
    assert never.missing(TINY, 1) == "no"


def test_a_library_that_counts_cpus_is_held_to_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3}, raising=False)
    assert owns_its_cpus(TINY, 2) is None
    assert owns_its_cpus(TINY, 1) == "would use 2 threads, not 1"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert "cannot be set" in owns_its_cpus(TINY, 1)


def test_folded_groups_mean_the_same() -> None:
    q, k, v = common.inputs(Case(2, 6, 2, 5, 7, 4))
    folded = fold(q, k)
    assert folded.shape == (2, 2, 15, 4)
    assert np.shares_memory(folded, q)
    result = fastattn.attention(folded, k, v, impl="numpy").reshape(q.shape)
    np.testing.assert_allclose(result, fastattn.attention(q, k, v, impl="numpy"), rtol=1e-5)
    assert fold(q[:, :2], k).shape == (2, 2, 5, 4)


# --- Cells -----------------------------------------------------------------------------


def test_cells_are_those_of_the_issue() -> None:
    names = {f"dim-{dim}" for dim in common.DIMS} | set(common.WORKLOADS)
    assert {n for n, c in CELLS.items() if c.case.dtype == "float32"} == names | {"blog"}
    assert {"dim-512-f64", "dim-1024-f64", "prefill-2k-f64"} <= set(CELLS)
    for suffix in ("-bf16", "-f16"):
        assert {f"{n}{suffix}" for n in ("dim-512", "bert", "decode", "causal-4k")} <= set(CELLS)
    blog = CELLS["blog"]
    assert (blog.case.batch, blog.case.heads_q, blog.case.length_q, blog.case.dim) == (
        4,
        2,
        100,
        32,
    )
    q, k, _ = blog.inputs()
    assert q.min() >= 0 and 0.9 < q.max() < 1
    assert not np.array_equal(q, k)
    assert np.array_equal(q, blog.inputs()[0])


def test_useful_work() -> None:
    assert CELLS["dim-64"].operations == 4 * 64**3
    assert CELLS["causal-2k"].operations * 4096 == CELLS["prefill-2k"].operations * 2049
    assert CELLS["decode"].keys_bytes == 2 * 4 * 8 * 4096 * 128 * 4
    assert CELLS["dim-512-bf16"].keys_bytes == 2 * 512 * 512 * 2


@pytest.mark.parametrize("dtype", cells.SUFFIXES)
def test_inputs_of_every_type_agree(dtype: str) -> None:
    cell = Cell("tiny", TINY.of(dtype))
    arrays = cell.inputs()
    assert {array.dtype for array in arrays} == {common.dtype_of(cell.case)}
    result = fastattn.attention(*arrays, impl="numpy")
    assert timing.agree(cell, arrays, result, None)["error"] is not None
    if dtype != "float64" or np.finfo(np.longdouble).eps < np.finfo(np.float64).eps:
        with pytest.raises(ArithmeticError, match="error"):
            timing.agree(cell, arrays, result.astype(np.float64) * 1.1, None)


def test_a_cell_may_hold_results_to_ours() -> None:
    cell = Cell("tiny", TINY, uniform=True, agreement=1e-6)
    arrays = cell.inputs()
    ours = fastattn.attention(*arrays, impl="numpy")
    other = ours.copy()
    other[-1, -1, -1, -1] += 2e-7
    assert 0 < timing.agree(cell, arrays, other, ours)["difference"] < 1e-6
    other[-1, -1, -1, -1] += 1e-5
    with pytest.raises(ArithmeticError):
        timing.agree(cell, arrays, other, ours)


# --- Timing ----------------------------------------------------------------------------


def test_settling_waits_for_threads_that_spin() -> None:
    looks = iter([2, 1, 0, 1, 0, 0, 0, 9])
    slept: list[float] = []
    assert system.settle(lambda: next(looks), slept.append, clock=lambda: sum(slept))
    assert len(slept) == 7  # until it was quiet for three looks in a row
    assert not system.settle(lambda: 1, slept.append, clock=lambda: sum(slept))


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 1), (0.003, 3), (0.008, 1)])
def test_a_turn_wakes_what_rested(
    seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    monkeypatch.setattr(system.time, "perf_counter", lambda: seconds * len(called))
    system.wake(lambda: called.append(1))
    assert len(called) == calls


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are seen through /proc")
def test_a_thread_that_spins_is_seen() -> None:
    import threading

    system.settle()
    stop = False

    def spin() -> None:
        while not stop:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert any(system._running_threads() for _ in range(1000))
    finally:
        stop = True
        thread.join()


def test_what_others_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(system.time, "process_time", lambda: 0.0)
    stat = tmp_path / "stat"
    stat.write_text("cpu 9 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 100 0 0 100 0 0 0 0 0 0\n")
    monitor = system.Others(stat)
    assert monitor.share() is None  # no time has passed
    stat.write_text("cpu 9 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 120 0 0 160 0 0 0 20 0 0\n")
    assert monitor.share() == pytest.approx(0.4)
    assert monitor.stolen() == pytest.approx(0.2)
    assert system.Others(tmp_path / "absent").share() is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now


def bound_to(clock: Clock, seconds: float, result: Any) -> Callable[..., Bound]:
    def bind(*arguments: Any) -> Bound:
        def call() -> Any:
            clock.now += seconds
            return result

        return Bound(call, lambda found: found, nullcontext)

    return bind


def test_a_cell_is_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agreement first, then turns; what is wrong, absent or too slow takes none."""
    clock = Clock()
    cell = Cell("tiny", TINY)
    right = fastattn.attention(*cell.inputs(), impl="numpy")
    rows = [
        Peer(name, "", ("json",), ("float32",), bound_to(clock, seconds, result))
        for name, seconds, result in (
            ("cython", 1e-3, right),
            ("twice", 2e-3, right),
            ("wrong", 1e-3, 2 * right),
            ("slow", 5.0, right),
            ("never", 1.0, right),
        )
    ]
    rows.append(Peer("absent", "", ("no_such_module",), ("float32",), _nothing))
    monkeypatch.setattr(timing, "registry", lambda: {peer.name: peer for peer in rows})
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    monkeypatch.setattr(timing, "settle", lambda: True)
    said: list[dict[str, Any]] = []
    speeds = {("never", "float32"): 1.0}
    timing.measure(cell, [peer.name for peer in rows], 1, 10.0, said.append, speeds)
    about = {message["peer"]: message for message in said if "peer" in message}
    assert "ArithmeticError" in about["wrong"]["failed"]
    assert "no_such_module is not installed" in about["absent"]["skipped"]
    assert "s a call" in about["never"]["skipped"]
    assert about["slow"]["alone"] and about["slow"]["samples"] == [pytest.approx(5.0, rel=1e-3)]
    assert about["twice"]["calls"] in (15, 16)
    turns = [message["repetition"] for message in said if "repetition" in message]
    assert len(turns) >= timing.LEAST_REPETITIONS
    for turn in turns:
        assert set(turn) == {"cython", "twice"}
        assert turn["twice"] / turn["cython"] == pytest.approx(2, rel=0.01)
    assert speeds["cython", "float32"] > speeds["twice", "float32"] > 0


def test_a_process_has_its_number_of_threads() -> None:
    found = system.environment(3)
    assert {found[name] for name in (*common.BLAS_VARIABLES, "NPROC")} == {"3"}
    assert found["FASTATTN_WISDOM"] == "off"
    assert found["PATH"] == os.environ["PATH"]


# --- The command -----------------------------------------------------------------------


def test_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "usable_cpus", lambda: 4)
    everything = command_line.parse([])
    assert everything.cells == list(CELLS)
    assert everything.peers == list(peers.registry())
    assert everything.threads == [1, 4]
    assert everything.plot == everything.json.with_suffix(".png")
    assert command_line.parse(["--show", "x/y.json"]).plot == Path("x/y.png")
    part = command_line.parse(["--cells", "vit,small", "--peers", "jax", "--threads", "2,2"])
    assert (part.cells, part.peers, part.threads) == (["vit", "small"], ["cython", "jax"], [2])
    assert command_line.parse(["blog"]).cells == ["blog"]
    for wrong in (["--cells", "vita"], ["--peers", "x"], ["--threads", "5"], ["--threads", "x"]):
        with pytest.raises(SystemExit):
            command_line.parse(wrong)
    assert "accepted are blog, dim-64" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_accuracy_is_relative_to_one_rounding(dtype: str) -> None:
    """1 for the exact result rounded, 2 for twice that error; other types have the oracle's."""
    case = Case(2, 4, 2, 40, 40, 16, causal=True, dtype=dtype)
    arrays = common.inputs(case)
    wide = (array.astype(np.float64) for array in arrays)
    exact = fastattn.attention(*wide, causal=True, impl="numpy")
    once = exact.astype(dtype)
    twice = exact + 2 * (once - exact)  # float64, to have such an error
    found = [accuracy.over_one_rounding(case, arrays, result) for result in (once, twice)]
    assert found == ([None] * 2 if dtype == "float32" else pytest.approx([1, 2], rel=1e-6))


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    command_line.listing()
    printed = capsys.readouterr().out
    assert all(name in printed for name in peers.registry())


def test_a_peer_that_kills_the_process_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, list[str]]] = []

    def messages(pending: Any, threads: int, seconds: float) -> Any:
        asked.append({cell: list(names) for cell, names in pending.items()})
        yield {"limits": LIMITS}
        for cell in list(pending):
            yield {"cell": cell}
            for name in list(pending[cell]):
                yield {"doing": name}
                if (cell, name) in (("vit", "jax"), ("vit", "numba")):
                    yield {"ended": f"the process ended with -11: {name}"}
                    return
                yield {"peer": name, "calls": 1, "error": 0.5}
            yield {"restless": "cython"}
            yield {"repetition": dict.fromkeys(pending[cell], 1.0)}
            yield {"others": 0.25}
            yield {"done": cell}

    monkeypatch.setattr(command, "_messages", messages)
    found = Results({}, ["cython", "jax", "numba"])
    told: list[tuple[str, int, str]] = []
    command.run(found, ["small", "vit", "bert"], [1], 1.0, lambda *words: told.append(words))
    assert asked[1] == {"vit": ["cython", "numba"], "bert": ["cython", "jax", "numba"]}
    assert asked[2] == {"vit": ["cython"], "bert": ["cython", "jax", "numba"]}
    assert found.get("vit", 1, "jax").failed == "the process ended with -11: jax"
    assert found.get("vit", 1, "numba").failed == "the process ended with -11: numba"
    assert found.get("vit", 1, "cython").samples == [1.0]
    assert found.get("bert", 1, "jax").samples == [1.0]
    assert found.get("small", 1, "cython").restless == 1
    assert found.others == {"1": {"small": 0.25, "vit": 0.25, "bert": 0.25}}
    assert ("vit", 1, "jax") in told and ("bert", 1, "") in told


def test_a_process_that_dies_at_once_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="no measurement on 1 threads"):
        command.run(Results({}, ["cython"]), ["small"], [1], 1.0, lambda *words: None)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Results]]:
    """Run the command; its status and what it kept."""
    monkeypatch.setattr(system, "environment", lambda threads: dict(os.environ))

    def runs(*words: str) -> tuple[int, Results]:
        path = tmp_path / "kept.json"
        monkeypatch.setattr(sys, "argv", ["peers", *words, "--json", str(path)])
        return command_line.main(), Results.read(path)

    return runs


@pytest.mark.slow
@pytest.mark.skipif(
    fastattn.implementations()["cython"] is not None, reason="ratios are taken to cython"
)
def test_one_whole_run(
    run: Callable[..., tuple[int, Results]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = run(
        *("--cells", "blog,dim-64", "--peers", "numpy,mlx", "--threads", "1", "--seconds", "0.1")
    )
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert found.cells(1) == ["blog", "dim-64"]
    for cell in ("blog", "dim-64"):
        ours, baseline = (found.get(cell, 1, name) for name in ("cython", "numpy"))
        assert len(ours.samples) == len(baseline.samples) >= timing.LEAST_REPETITIONS
        assert baseline.error is not None
    assert found.get("blog", 1, "numpy").difference <= 1e-6
    assert found.limits["1"]["stream_bytes"] > 0
    assert found.about["versions"]["numpy"] == np.__version__
    assert "Kept in" in printed
    assert (tmp_path / "kept.png").exists()


@pytest.mark.slow
def test_an_interruption_keeps_what_there_is(
    run: Callable[..., tuple[int, Results]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(found: Results, *arguments: Any) -> None:
        found.entries += synthetic().entries
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    status, found = run("--cells", "small")
    assert status == 130
    assert found.entries == synthetic().entries


# --- Peers that may be here ------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, p in peers.registry().items() if not p.ours])
@pytest.mark.parametrize(
    "case",
    [TINY, Case(2, 4, 4, 12, 12, 8, causal=True), Case(2, 4, 2, 1, 9, 8)],
    ids=["plain", "causal", "groups"],
)
def test_a_peer_agrees(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data type that it says it has, but for what JAX makes of float64.

    What is tested is how a peer is called, not how it rounds: OpenVINO's float16 is ten times
    the naive error on some machines, a result in the wrong places a thousand times.
    """
    monkeypatch.setattr(oracle, "LIMIT", 32.0)
    peer = peers.registry()[name]
    for module in peer.modules:
        pytest.importorskip(module, reason=f"{module} is not installed")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    tried = 0
    for dtype in peer.dtypes:
        if (name, dtype) == ("jax", "float64") or peer.missing(case.of(dtype), threads):
            continue
        cell = Cell("tiny", case.of(dtype))
        arrays = cell.inputs()
        bound = peer.bind(cell.case, *arrays, threads)
        for _ in range(2):
            with bound.around():
                result = bound.read(bound.call())
            timing.agree(cell, arrays, result, None)
        tried += 1
    if not tried:
        pytest.skip(peer.missing(case.of(peer.dtypes[0]), threads) or "float64 alone")
