"""What is particular to the numba implementation: compiling, its cache, threads, blocks."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from processes import run_python
from strategies import Call, calls

import fastattn
from fastattn import Config
from fastattn.implementations import load

numba_ = load("numba")
pytestmark = pytest.mark.skipif(numba_.missing() is not None, reason=str(numba_.missing()))

CALL = """
import sys
import numpy as np
import fastattn

q, k, v = np.random.default_rng(0).standard_normal((3, 20, 9), dtype=np.float32)
"""


def _call(*arrays: np.ndarray, config: Config | None = None, **arguments: Any) -> Any:
    return fastattn.attention(*arrays, impl="numba", config=config, **arguments)


def _normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_absent_numba_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by an ImportError at the first call."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in (numba_.missing() or "")


@pytest.mark.slow
def test_a_numba_that_does_not_fit_is_told() -> None:
    """Installed, but its import fails, as beside a NumPy that is too new for it."""
    run_python(
        """
import sys

class Unfit:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("llvmlite", "numba"):
            raise ImportError("Numba needs NumPy 2.3 or less")

sys.meta_path.insert(0, Unfit())
"""
        + CALL
        + """
from fastattn.implementations import load

load("numba").missing = lambda: None  # the package is there
try:
    fastattn.attention(q, k, v, impl="numba")
except fastattn.UnavailableError as error:
    assert "Numba needs NumPy" in str(error) and "impl='numpy'" in str(error), error
else:
    raise AssertionError("computed")
usable = [name for name, why in fastattn.implementations().items() if why is None]
if usable[0] != "numba":  # the search leaves its points out
    result = fastattn.tune((1, 1, 1, 8, 8, 4), budget=4, seconds=2, remember=False)
    assert result.impl != "numba"
"""
    )


@pytest.mark.slow
def test_numba_is_imported_by_the_first_call_only() -> None:
    """Neither importing fastattn, nor asking what can run, nor planning imports it."""
    run_python(
        CALL
        + """
fastattn.implementations()
fastattn.explain(q, k, v, impl="numba")
fastattn.attention(q, k, v, impl="numpy")
assert "numba" not in sys.modules and "llvmlite" not in sys.modules
"""
    )


@pytest.mark.slow
def test_second_process_finds_the_compiled_kernel(tmp_path: Path) -> None:
    """One compilation a data type, kept on disk; its key covers every file of the kernel."""
    code = (
        CALL
        + """
from fastattn.implementations._numba import kernel
fastattn.attention(q, k, v, impl="numba")
stats = kernel.kernel.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    )
    cache: dict[str, Any] = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run_python(code, **cache).split() == ["0", "1"]
    assert list(tmp_path.rglob("*.nbc"))
    assert run_python(code, **cache).split() == ["1", "0"]


@pytest.mark.slow
def test_nowhere_to_keep_the_kernel(tmp_path: Path) -> None:
    """Computes all the same where no folder can take the cache."""
    run_python(
        CALL
        + """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
assert fastattn.attention(q, k, v, impl="numba").shape == q.shape
"""
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_processor_without_extensions(tmp_path: Path, dtype: str) -> None:
    """Narrow registers and no fused multiply-add: other tiles, the same meaning."""
    run_python(
        CALL
        + f"""
from fastattn.implementations._numba import ir
assert ir.LANES_BYTES == 16
q, k, v = (x.astype({dtype!r}) for x in (q, k, v))
for arguments in ({{}}, {{"causal": True, "softcap": 2.0}}):
    got = fastattn.attention(q, k, v, impl="numba", **arguments)
    assert np.abs(got - fastattn.attention(q, k, v, impl="numpy", **arguments)).max() < 1e-5
""",
        NUMBA_CPU_NAME="generic",
        NUMBA_CPU_FEATURES="",
        NUMBA_CACHE_DIR=str(tmp_path),
    )


def test_threads_are_those_asked_for() -> None:
    """One thread starts none; three threads start two, which the next call uses again."""
    x = _normal(3, 4, 64, 16)
    names = run_python(
        """
import threading
import numpy as np
import fastattn
x = np.ones((3, 4, 64, 16), np.float32)
for threads in (1, 3, 3, 2):
    fastattn.attention(*x, impl="numba", config=fastattn.Config(threads=threads, block_q=16))
    print(sum(thread.name.startswith("fastattn-") for thread in threading.enumerate()))
"""
    )
    assert names.split() == ["0", "2", "2", "2"]
    one = _call(*x, config=Config(threads=1, block_q=16))
    assert one.tobytes() == _call(*x, config=Config(threads=3, block_q=16)).tobytes()


def test_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small call is not shared; the environment's number is kept to."""
    monkeypatch.delenv("FASTATTN_NUM_THREADS", raising=False)
    small, large = _normal(64, 61), _normal(8, 513, 61)
    assert fastattn.explain(small, small, small, impl="numba").config.threads == 1
    monkeypatch.setenv("FASTATTN_NUM_THREADS", "3")
    explanation = fastattn.explain(large, large, large, impl="numba")
    assert explanation.config.threads == 3
    assert explanation.reasons["threads"] == "FASTATTN_NUM_THREADS"


def test_a_helpers_error_is_raised() -> None:
    """And not before all threads have finished."""
    from fastattn.implementations._numba.pool import run_on_threads

    helped, finished = threading.Event(), []

    def work(worker: int) -> None:
        if worker:
            helped.set()
            raise MemoryError("of a helper")
        assert helped.wait(10)
        finished.append(worker)

    with pytest.raises(MemoryError, match="of a helper"):
        run_on_threads(work, 2)
    assert finished == [0]


def test_threads_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system allows no more: the caller does the work of those that are missing."""
    from fastattn.implementations._numba import pool

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "_pool", pool._Pool())
    monkeypatch.setattr(threading.Thread, "start", refused)
    done: list[int] = []
    pool.run_on_threads(done.append, 3)
    assert done == [0]
    x = _normal(3, 8, 200, 64)
    got = _call(*x, config=Config(threads=3, block_q=16))
    monkeypatch.undo()
    assert got.tobytes() == _call(*x, config=Config(threads=3, block_q=16)).tobytes()


def test_finished_work_is_not_waited_for() -> None:
    """A helper that has nothing left to do may come back later."""
    from fastattn.implementations._numba.pool import run_on_threads

    helped, leave = threading.Event(), threading.Event()

    def work(worker: int) -> bool:
        if worker:
            helped.set()
            return leave.wait(10)
        return helped.wait(10)

    try:
        run_on_threads(work, 2)  # would wait for ten seconds
        assert not leave.is_set()
    finally:
        leave.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.slow
def test_forked_child_has_threads_of_its_own() -> None:
    """The parent's threads do not exist in the child."""
    run_python(
        """
import os, signal
import numpy as np
import fastattn

x = np.ones((3, 8, 128, 16), np.float32)
config = fastattn.Config(threads=2, block_q=16)
expected = fastattn.attention(*x, impl="numba", config=config)
child = os.fork()
if not child:
    signal.alarm(60)
    for _ in range(50):
        got = fastattn.attention(*x, impl="numba", config=config)
    os._exit(0 if np.array_equal(got, expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )


def test_working_memory() -> None:
    """At most 2 MiB a thread for D = 64, however long the sequence."""
    x = _normal(3, 4096, 64)
    config, out = Config(threads=2), np.empty((4096, 64), np.float32)
    _call(*x, config=config, out=out)
    tracemalloc.start()
    try:
        _call(*x, config=config, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * 2 * 2**20


@pytest.mark.parametrize("block_q", [1, 7, 8, 16, 17, 65_536])
@pytest.mark.parametrize("block_k", [1, 5, 6, 7, 16, 97, 65_536])
def test_blocks_of_any_size(block_q: int, block_k: int) -> None:
    """Blocks change the last bits only."""
    q, k, v = _normal(4, 37, 33), _normal(2, 101, 33, seed=1), _normal(2, 101, 11, seed=2)
    arguments: dict[str, Any] = {"causal": True, "align": "bottom_right", "return_lse": True}
    got = _call(q, k, v, config=Config(block_q=block_q, block_k=block_k), **arguments)
    expected = fastattn.attention(q, k, v, impl="numpy", **arguments)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("dim", [8, 31, 64, 300])
def test_a_row_alone_is_the_same_row(dtype: str, dim: int) -> None:
    """A single row, half a panel and a whole one go different ways, to the same bits."""
    q, k, v = (_normal(50, dim, dtype=dtype, seed=seed) for seed in range(3))
    together = _call(q, k, v)
    for rows in (slice(0, 1), slice(49, 50), slice(3, 9), slice(10, 31)):
        assert _call(q[rows], k, v).tobytes() == together[rows].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("dim", [8, 31, 300])
def test_few_rows_are_the_same_rows(dtype: str, dim: int) -> None:
    """Up to 8 rows have a kernel of their own: the same bits, whatever hides keys."""
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    q, k, v = (_normal(2, n, dim, seed=n).astype(kind) for n in (40, 101, 101))
    v[:, 70, 5], v[:, 90, 2] = np.nan, np.inf  # hidden from some rows
    mask = np.random.default_rng(1).random((2, 40, 101)) < 0.7
    some: tuple[dict[str, Any], ...] = (
        {},
        {"causal": True, "align": 60},
        {"window": (20, 5), "align": 50, "softcap": 3.0},
        {"mask": mask},
        {"mask": np.where(mask, np.float32(0.5), np.float32(-np.inf)), "kv_lengths": 95},
    )
    config = Config(block_k=24)
    for arguments in some:
        whole, lse = _call(q, k, v, config=config, return_lse=True, **arguments)
        for rows in (slice(0, 1), slice(3, 5), slice(20, 23), slice(30, 35), slice(32, 40)):
            part = dict(arguments)
            if "align" in part:
                part["align"] += rows.start
            if "mask" in part:
                part["mask"] = part["mask"][:, rows]
            got = _call(q[:, rows], k, v, config=config, return_lse=True, **part)
            assert got[0].tobytes() == whole[:, rows].tobytes(), (arguments, rows)
            assert got[1].tobytes() == lse[:, rows].tobytes()


@given(call=calls(smallest=1))
def test_threads_share_the_keys_of_a_few_rows(call: Call) -> None:
    """However a head's blocks of keys are shared out, they are joined to the same bits."""
    results = []
    for threads in (1, 2, 5):
        config = Config(block_q=8, block_k=2, threads=threads)
        numba_._LAYOUTS.clear()  # type: ignore[attr-defined]
        with mock.patch.object(numba_, "_BYTES_PER_SPLIT", 1):
            results.append(_call(*call.arrays, config=config, return_lse=True, **call.arguments))
    numba_._LAYOUTS.clear()  # type: ignore[attr-defined]
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_keys_of_one_head_are_shared() -> None:
    """One row and many keys: every thread gets some, and the sum is right."""
    numba_._LAYOUTS.clear()  # type: ignore[attr-defined]
    q, k, v = _normal(1, 64), _normal(20_000, 64, seed=1), _normal(20_000, 64, seed=2)
    got, lse = _call(q, k, v, config=Config(threads=4), return_lse=True)
    (layout,) = numba_._LAYOUTS.values()  # type: ignore[attr-defined]
    assert layout.threads == 4
    expected, expected_lse = fastattn.attention(q, k, v, impl="numpy", return_lse=True)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(lse, expected_lse, atol=1e-5)


@pytest.mark.parametrize("length_q", [1, 5, 8, 9, 40, 70])
@pytest.mark.parametrize("length_k", [1, 31, 32, 33, 64, 150])
def test_tiles_of_a_boolean_mask(length_q: int, length_k: int) -> None:
    """Empty, whole and partial tiles give the bits of the same mask as 0 and -inf.

    Only the boolean one is looked at tile by tile.
    """
    q, k, v = _normal(length_q, 16), _normal(length_k, 16, seed=1), _normal(length_k, 16, seed=2)
    i, j = np.ogrid[:length_q, :length_k]
    v[length_k // 2, 3] = np.inf
    masks = {
        "none": np.zeros((length_q, length_k), bool),
        "all": np.ones((length_q, length_k), bool),
        "blocks": i // 16 == j // 40,
        "one key": (j == length_k - 1) & (i >= 0),
        "lower": j <= i,
        "holes": (i * 7 + j * 3) % 11 != 0,
        "every row alike": np.broadcast_to(j % 50 < 20, (length_q, length_k)),
        "every key alike": np.broadcast_to(i % 2 == 0, (length_q, length_k)),
        "back to front": (j <= i)[:, ::-1],
    }
    for name, mask in masks.items():
        added = np.where(mask, np.float32(0), np.float32(-np.inf))
        for config in (None, Config(block_q=16, block_k=48), Config(block_q=8, block_k=33)):
            got = _call(q, k, v, mask=mask, config=config, return_lse=True)
            expected = _call(q, k, v, mask=added, config=config, return_lse=True)
            for ours, theirs in zip(got, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_hidden_tiles_are_not_computed() -> None:
    """What they hold shows nowhere: NaN and infinity lie in all hidden keys."""
    q, k, v = _normal(64, 32), _normal(96, 32, seed=1), _normal(96, 32, seed=2)
    mask = np.zeros((64, 96), bool)
    mask[:32, :48], mask[32:, 48:] = True, True
    expected = _call(q, k, v, mask=mask)
    np.testing.assert_allclose(
        expected, fastattn.attention(q, k, v, mask=mask, impl="numpy"), atol=1e-6
    )
    k[48:], v[48:] = np.nan, np.inf
    got = _call(q, k, v, mask=mask)
    assert got[:32].tobytes() == expected[:32].tobytes()
    assert np.isnan(got[32:]).all()


@pytest.mark.parametrize("dim", [128, 256, 400, 512, 768, 1024])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_blocks_are_shared_evenly(dim: int, threads: int) -> None:
    """One head's rows: as many blocks for each thread, unless they are not worth one."""
    x = np.empty((dim, dim), np.float32)
    config = fastattn.explain(x, x, x, impl="numba", config=Config(threads=threads)).config
    assert config.block_q is not None
    blocks = -(-dim // config.block_q)
    if threads == 1 or dim == 128:
        assert config.block_q == 256 or blocks == 1
    else:
        assert blocks % threads == 0


def test_features_of_more_than_one_chunk() -> None:
    """Chunks of features, the last one partial, with and without a NaN in a hidden value."""
    q, k, v = _normal(40, 601), _normal(40, 601, seed=1), _normal(40, 530, seed=2)
    expected = fastattn.attention(q, k, v, impl="numpy", causal=True)
    np.testing.assert_allclose(_call(q, k, v, causal=True), expected, atol=1e-5)
    v[30, 529] = np.nan
    got = _call(q, k, v, causal=True)
    np.testing.assert_allclose(got[:30], expected[:30], atol=1e-5)
    assert np.isnan(got[30:, 529]).all() and np.isfinite(got[:, :529]).all()


def test_every_float16_is_read_and_written() -> None:
    """One key has weight 1: each of the 65,536 bit patterns comes back, NaN as some NaN."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)[None]
    one = np.ones((1, 1), np.float16)
    got = _call(one, one, every)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(every))
    ours, theirs = (x[~np.isnan(every)] + np.float16(0) for x in (got, every))  # -0 is +0
    np.testing.assert_array_equal(ours.view(np.uint16), theirs.view(np.uint16))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rounding_to_16_bits(name: str) -> None:
    """Nearest, ties to even, subnormal numbers too: as NumPy casts the same float32."""
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), name, name))
    patterns = np.random.default_rng(0).integers(0, 2**16, (2, 20_000), dtype=np.uint16)
    v = patterns.view(dtype)
    v[~np.isfinite(v.astype(np.float32))] = 1
    v[:, :2] = [[np.finfo(np.float16).max, 2.0**-24], [np.finfo(np.float16).max, 0]]
    q, k = np.zeros((1, 1), dtype), np.zeros((2, 1), dtype)
    wide = v.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = ((wide[0] + wide[1]) * np.float32(0.5) + 0).astype(dtype)
    np.testing.assert_array_equal(_call(q, k, v)[0].view(np.uint16), expected.view(np.uint16))
