"""What is particular to the numba implementation: compiling, its cache, threads, blocks."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from processes import run_python

import fastattn
from fastattn import Config
from fastattn._log import warn_once
from fastattn.implementations import load

numba_ = load("numba")
pytestmark = pytest.mark.skipif(numba_.missing() is not None, reason=str(numba_.missing()))

CALL = """
import sys
import numpy as np
import fastattn

def check(dtype, **arguments):
    q, k, v = np.random.default_rng(0).standard_normal((3, 20, 9)).astype(dtype)
    got = fastattn.attention(q, k, v, impl="numba", **arguments)
    expected = fastattn.attention(q, k, v, impl="numpy", **arguments)
    assert np.abs(got - expected).max() < 1e-5
    from fastattn.implementations._numba.kernel import attend
    return sum(attend.stats.cache_hits.values())
"""


def _call(*arrays: np.ndarray, config: Config | None = None, **arguments: Any) -> Any:
    return fastattn.attention(*arrays, impl="numba", config=config, **arguments)


def _normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.slow
def test_without_the_compiler() -> None:
    """NUMBA_DISABLE_JIT is told; the intrinsics cannot run without the compiler."""
    run_python(
        "import fastattn\nassert 'NUMBA_DISABLE_JIT' in fastattn.implementations()['numba']",
        NUMBA_DISABLE_JIT="1",
    )


@pytest.mark.slow
def test_damaged_caches_are_never_trusted(tmp_path: Path) -> None:
    """A later process loads the kernel; cut, empty or exchanged files are compiled anew."""
    environment: dict[str, Any] = {"NUMBA_CACHE_DIR": str(tmp_path)}

    def hits(*dtypes: str) -> list[str]:
        code = CALL + "".join(f"print(check({dtype!r}))\n" for dtype in dtypes)
        return run_python(code, **environment).split()

    def files(kind: str) -> list[Path]:
        return sorted(tmp_path.rglob(f"*.{kind}"))

    assert hits("float32", "float64") == ["0", "0"]
    assert hits("float32", "float64") == ["1", "2"]
    one, other = (path.read_bytes() for path in files("nbc"))
    for path, content in zip(files("nbc"), (other, one), strict=True):  # the end of a race
        path.write_bytes(content)
    assert hits("float32", "float64") == ["0", "0"]
    for path in (files("nbc")[0], files("nbi")[1]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert hits("float32", "float64") == ["0", "0"]
    assert hits("float32", "float64") == ["1", "2"]


def test_a_folder_of_others_is_no_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is read from a cache is run, so nobody else may write there; one warning says so."""
    from fastattn.implementations._numba import cache

    warn_once.cache_clear()
    for mode, private in ((0o700, True), (0o755, True), (0o757, False), (0o1777, False)):
        tmp_path.chmod(mode)
        assert cache._is_private(tmp_path) == private, oct(mode)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert not cache._is_private(link)
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
        os.chown(tmp_path, 12345, -1)
        assert not cache._is_private(tmp_path)
    assert len([r for r in caplog.records if str(tmp_path) in r.getMessage()]) == 2
    kept = cache.CheckedCache(cache.attend.py_func)
    assert kept.load_overload("unlike any", SimpleNamespace(refresh=lambda: None)) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO])
def test_a_disk_that_takes_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """No call fails for it, and nothing is left of what could not be written."""
    from fastattn.implementations._numba import cache

    kept: Any = cache.CheckedCache(cache.attend.py_func)
    kept._cache_path = str(tmp_path)
    kept._impl = SimpleNamespace(reduce=lambda data: data)
    kept._paths = lambda *_: (b"key", tmp_path / "a.nbc", tmp_path / "a.nbi")
    kept.save_overload(None, SimpleNamespace(codegen=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nbc", "a.nbi"]

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    kept.save_overload(None, SimpleNamespace(codegen=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nbc", "a.nbi"]


@pytest.mark.slow
def test_nowhere_to_keep_the_kernel() -> None:
    """Computes all the same where no folder can take the cache."""
    run_python(
        "import numba.core.caching as caching\ncaching.CacheImpl._locator_classes = []"
        + CALL
        + "check('float32')"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "features"), [("generic", ""), ("haswell", "+avx2,+fma")])
def test_other_processors(tmp_path: Path, cpu: str, features: str) -> None:
    """Narrower registers, fewer of them, no fused multiply-add: the same meaning."""
    run_python(
        CALL + "check('float32', causal=True, softcap=2.0)\ncheck('float64')",
        NUMBA_CPU_NAME=cpu,
        NUMBA_CPU_FEATURES=features,
        NUMBA_CACHE_DIR=str(tmp_path),
    )


@pytest.mark.slow
@pytest.mark.timing
def test_time_to_compile(tmp_path: Path) -> None:
    """At most 15 s for a data type, and 0.5 s in later processes, beside Numba's own import."""
    code = (
        "import time, numba\n" + CALL + "start = time.perf_counter()\ncheck('float32')\n"
        "print(time.perf_counter() - start)"
    )
    environment: dict[str, Any] = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert float(run_python(code, **environment)) <= 15
    assert float(run_python(code, **environment)) <= 0.5


def test_threads_change_no_bit() -> None:
    """Nor do several calls at once, each of which has helpers."""
    x = _normal(3, 4, 300, 64)
    expected = _call(*x, config=Config(threads=1, block_q=32), causal=True)
    results: list[np.ndarray] = []

    def call() -> None:
        for _ in range(5):
            results.append(_call(*x, config=Config(threads=3, block_q=32), causal=True))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 20
    assert all(result.tobytes() == expected.tobytes() for result in results)


def test_threads_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system allows no more: the caller does the work of those that are missing."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    x = _normal(3, 8, 200, 64)
    expected = _call(*x, config=Config(threads=1, block_q=32))
    numba_._executor.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(threading.Thread, "start", refused)
    got = _call(*x, config=Config(threads=3, block_q=32))
    numba_._executor.cache_clear()  # type: ignore[attr-defined]
    assert got.tobytes() == expected.tobytes()


def test_a_helpers_error_is_raised() -> None:
    """And no work is begun after it."""
    done: list[int] = []
    both = threading.Barrier(2)

    def work(begin: int, end: int) -> None:
        if begin < 2:
            both.wait(10)
        if begin == 1 or threading.current_thread() is not threading.main_thread():
            raise MemoryError("of a thread")
        done.append(begin)

    with pytest.raises(MemoryError, match="of a thread"):
        numba_._share(work, 2, 1, 2)  # type: ignore[attr-defined]
    assert len(done) <= 1


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


@pytest.mark.slow
def test_an_interrupt_is_heard() -> None:
    """Between two pieces of a long call; the next call is right."""
    run_python(
        """
import signal, time
import numpy as np
import fastattn

x = np.ones((3, 8, 4096, 128), np.float32)
signal.signal(signal.SIGALRM, signal.default_int_handler)
small = x[:, :, :64]
fastattn.attention(*small, impl="numba")
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    while True:
        fastattn.attention(*x, impl="numba")
except KeyboardInterrupt:
    pass
assert (fastattn.attention(*small, impl="numba") == 1).all()
"""
    )


@pytest.mark.parametrize("block_q", [1, 7, 16, 33, 65_536])
@pytest.mark.parametrize("block_k", [1, 7, 16, 97, 65_536])
def test_blocks_of_any_size(block_q: int, block_k: int) -> None:
    """Blocks change the last bits only."""
    q, k, v = _normal(4, 37, 33), _normal(2, 101, 33, seed=1), _normal(2, 101, 11, seed=2)
    arguments: dict[str, Any] = {"causal": True, "align": "bottom_right", "return_lse": True}
    got = _call(q, k, v, config=Config(block_q=block_q, block_k=block_k), **arguments)
    expected = fastattn.attention(q, k, v, impl="numpy", **arguments)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


@pytest.mark.parametrize("length_q", [1, 9, 40, 70])
@pytest.mark.parametrize("length_k", [1, 32, 33, 150])
def test_tiles_of_a_boolean_mask(length_q: int, length_k: int) -> None:
    """Empty, whole and partial tiles give the bits of the same mask as 0 and -inf."""
    q, k, v = _normal(length_q, 16), _normal(length_k, 16, seed=1), _normal(length_k, 16, seed=2)
    i, j = np.ogrid[:length_q, :length_k]
    v[length_k // 2, 3] = np.inf
    masks = {
        "none": np.zeros((length_q, length_k), bool),
        "all": np.ones((length_q, length_k), bool),
        "blocks": i // 16 == j // 40,
        "holes": (i * 7 + j * 3) % 11 != 0,
        "every row alike": np.broadcast_to(j % 50 < 20, (length_q, length_k)),
        "back to front": (j <= i)[:, ::-1],
    }
    for name, mask in masks.items():
        added = np.where(mask, np.float32(0), np.float32(-np.inf))
        for config in (None, Config(block_q=16, block_k=48)):
            got = _call(q, k, v, mask=mask, config=config, return_lse=True)
            expected = _call(q, k, v, mask=added, config=config, return_lse=True)
            for ours, theirs in zip(got, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=name)


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
