"""The probes of the machine's limits: plausible on any machine, and no more is promised."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
from processes import run_python
from targets import TARGETS, Target

import fastattn
from fastattn import _machine, _roofline

CYTHON = [target.parameter() for target in TARGETS if target.impl == "cython"]

# No core does more in a second: 10 GHz, 4 vectors of 64 bytes at once.
MOST_HERTZ, MOST_VECTORS, MOST_BYTES = 10e9, 4, 64
# Instruction sets with products of bfloat16.
PRODUCTS = ("amx", "amx_model", "avx512_bf16")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the probes are for needs 256 MiB; how they work does not."""
    monkeypatch.setattr(_roofline, "_STREAM_BYTES", 8 * 2**20)
    monkeypatch.setattr(_roofline, "_STREAM_BYTES_PER_THREAD", 4 * 2**20)
    monkeypatch.setattr(_roofline, "_STREAM_OVER_L3", 0)


@pytest.mark.parametrize("cython", CYTHON)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_limits_are_plausible(cython: Target, threads: int) -> None:
    """Above what a slow core does, below what no core can."""
    roof = fastattn.roofline(cython.isa, threads, seconds=0.02)
    assert (roof.isa, roof.threads) == (cython.isa, threads)
    flops = roof.fma_flops_per_second
    assert set(flops) == {"float32", "float64", "float16", "bfloat16"}
    assert flops["float16"] == flops["bfloat16"] == flops["float32"]
    for name, size in (("float32", 4), ("float64", 8)):
        at_most = threads * MOST_HERTZ * 2 * MOST_VECTORS * MOST_BYTES / size
        assert 1e7 < flops[name] < at_most
    products = roof.bfloat16_flops_per_second
    assert (products is not None) == (cython.isa in PRODUCTS)
    if products is not None:  # 16 rows of 16 columns and 32 products in as many cycles
        assert 1e7 < products < threads * MOST_HERTZ * 2 * 16 * 32
    for rate in (roof.stream_bytes_per_second, roof.l2_bytes_per_second):
        assert 1e7 < rate < threads * MOST_HERTZ * MOST_VECTORS * MOST_BYTES


@pytest.mark.skipif("amx" not in fastattn.machine().isas, reason="no tiles here")
@pytest.mark.timing
def test_tiles_compute_more_than_vectors() -> None:
    """The best of many turns; several times as much, unless a neighbour uses the tiles too."""
    roofs = [fastattn.roofline("amx", seconds=0.1) for _ in range(3)]
    best = max(roof.bfloat16_flops_per_second or 0.0 for roof in roofs)
    assert best > 1.5 * max(roof.fma_flops_per_second["float32"] for roof in roofs)


@pytest.mark.parametrize("cython", CYTHON)
@pytest.mark.timing
def test_wider_vectors_do_not_compute_less(cython: Target) -> None:
    """The best of many turns: a multiply-add of all lanes, not of one."""
    best = {
        isa: max(
            fastattn.roofline(isa, seconds=0.04).fma_flops_per_second["float32"] for _ in range(3)
        )
        for isa in (cython.isa, "baseline")
    }
    assert best[cython.isa] > 0.7 * best["baseline"]


def test_default_isa_is_that_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best that runs here, or what the environment names."""
    isas = fastattn.machine().isas
    if not isas:
        pytest.skip(f"cython: {fastattn.implementations()['cython']}")
    monkeypatch.delenv("FASTATTN_ISA", raising=False)
    assert fastattn.roofline(seconds=0.001).isa == isas[0]
    monkeypatch.setenv("FASTATTN_ISA", isas[-1])
    assert fastattn.roofline(seconds=0.001).isa == isas[-1]
    monkeypatch.setenv("FASTATTN_ISA", "abacus")
    with pytest.raises(fastattn.UnavailableError, match="FASTATTN_ISA.*abacus"):
        fastattn.roofline()


def test_result_is_frozen() -> None:
    """One value, handed on."""
    roof = fastattn.Roofline("avx2", 1, {"float32": 1.0}, 1.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        roof.threads = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"isa": "abacus"}, fastattn.UnavailableError, "`isa`.*abacus.*no such"),
        ({"isa": 3}, fastattn.ArgumentTypeError, "`isa`.*3"),
        ({"threads": 0}, fastattn.ArgumentError, "`threads`.*0.*1 to 1024"),
        ({"threads": 1025}, fastattn.ArgumentError, "`threads`.*1025"),
        ({"threads": True}, fastattn.ArgumentTypeError, "`threads`.*True"),
        ({"threads": 1.5}, fastattn.ArgumentTypeError, "`threads`.*1.5"),
        ({"seconds": 0}, fastattn.ArgumentError, "`seconds`.*0"),
        ({"seconds": -1.0}, fastattn.ArgumentError, "`seconds`.*-1"),
        ({"seconds": float("nan")}, fastattn.ArgumentError, "`seconds`.*nan"),
        ({"seconds": 61}, fastattn.ArgumentError, "`seconds`.*61"),
        ({"seconds": "1"}, fastattn.ArgumentTypeError, "`seconds`.*'1'"),
        ({"seconds": False}, fastattn.ArgumentTypeError, "`seconds`.*False"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    """Refused, with the argument, what came and what is accepted."""
    if not fastattn.machine().isas:
        pytest.skip(f"cython: {fastattn.implementations()['cython']}")
    with pytest.raises(error, match=words):
        fastattn.roofline(**arguments)


def test_numbers_of_numpy_are_numbers() -> None:
    """As everywhere."""
    if not fastattn.machine().isas:
        pytest.skip(f"cython: {fastattn.implementations()['cython']}")
    assert fastattn.roofline(threads=np.int64(1), seconds=np.float32(0.001)).threads == 1


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason why there is none."""
    monkeypatch.setitem(sys.modules, "fastattn.implementations._native", None)
    monkeypatch.delattr(sys.modules["fastattn.implementations"], "_native", raising=False)
    _machine.machine.cache_clear()
    try:
        with pytest.raises(fastattn.UnavailableError, match="cannot be imported"):
            fastattn.roofline()
    finally:
        _machine.machine.cache_clear()


@pytest.mark.skipif(not fastattn.machine().isas, reason="cython: the extension is not built")
@pytest.mark.parametrize("threading", ["pool", "openmp"])
def test_a_forked_child_has_threads_of_its_own(threading: str) -> None:
    """Whatever the parent used."""
    binding, _ = _machine.native()
    if threading == "openmp" and not (binding and binding.OPENMP):
        pytest.skip("this build has no OpenMP")
    code = """
        import os, signal, fastattn
        from fastattn import _roofline
        _roofline._STREAM_BYTES, _roofline._STREAM_OVER_L3 = 8 * 2**20, 0
        fastattn.roofline(threads=2, seconds=0.001)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if fastattn.roofline(threads=2, seconds=0.001).threads == 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    run_python(code, FASTATTN_THREADING=threading)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.skipif(not fastattn.machine().isas, reason="cython: the extension is not built")
def test_threads_that_cannot_be_started() -> None:
    """The measurement is called off."""
    run_python("""
        import resource, fastattn
        from fastattn import _roofline
        _roofline._STREAM_BYTES = _roofline._STREAM_BYTES_PER_THREAD = 2**20
        _roofline._STREAM_OVER_L3 = 0
        fastattn.roofline(threads=1, seconds=0.001)
        now = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmSize" in line)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, ((now << 10) + (7 << 20), hard))
        try:
            fastattn.roofline(threads=2, seconds=0.001)
        except fastattn.UnavailableError as error:
            assert "lets this process start" in str(error)
        else:
            raise AssertionError("no error")
    """)
