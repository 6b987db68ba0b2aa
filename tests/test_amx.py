"""The tiles of AMX: their exact model, the permission to use them, the state that they leave."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from processes import run_python
from strategies import DTYPES, Call, calls
from targets import TARGETS, THOROUGH, Target
from test_build import SETUP, SOURCES, compiler

import fastattn
from fastattn import _wisdom
from fastattn._shapes import spec_of

WHY_NOT = fastattn.machine().missing_isas.get("amx")
HERE = "amx" in fastattn.machine().isas
on_hardware = pytest.mark.skipif(not HERE, reason=f"amx: {WHY_NOT}")
tile_types = ("float32", "float16", "bfloat16")
has_model = pytest.mark.skipif(
    "amx_model" not in fastattn.machine().isas,
    reason="no amx_model: build with FASTATTN_TEST_KERNELS=1, as make test does",
)


@on_hardware
@pytest.mark.slow
def test_the_model_is_exact(tmp_path: Path) -> None:
    """Instructions and model give the same bits, for tiles of eight kinds of numbers."""
    count = 1_000_000 if THOROUGH else 20_000
    said = run_check("tile_check.cpp", "amx", count, tmp_path)
    assert f"0 differences in {count} tiles" in said


def run_check(source: str, isa: str, count: int, folder: Path) -> str:
    """Compile a program that compares instructions with their model, and run it without error."""
    row = next(row for row in SETUP.ISAS if row.name == isa)
    flags = [flag for flag in SETUP.COMMON_FLAGS if flag != "-O3"]
    command = [*compiler(), *flags, *SETUP.ISA_FLAGS, *row.flags, "-O1", "-o", folder / "check"]
    subprocess.run([*command, Path(__file__).parent / source, SOURCES / "cpu.cpp"], check=True)
    done = subprocess.run(
        [folder / "check", str(count)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@on_hardware
@has_model
@given(call=calls(dtypes=tile_types))
def test_calls_of_the_model_give_the_same_bits(call: Call) -> None:
    """The kernels over the model compute what they compute over the instructions."""
    assert_same_bits(call, ("amx", "amx_model"))


def assert_same_bits(call: Call, isas: tuple[str, str]) -> None:
    """Two instruction sets give the same results, bit for bit."""
    got = [
        Target("cython", isa, None).both(*call.arrays, tunables=call.tunables, **call.arguments)
        for isa in isas
    ]
    for here, there in zip(*got, strict=True):
        np.testing.assert_array_equal(here, there)


@on_hardware
@has_model
def test_subnormal_results() -> None:
    """They are rounded, though the instruction that rounds to bfloat16 takes them for 0."""
    q, k, v = np.random.default_rng(4).standard_normal((3, 2, 64, 64)).astype(DTYPES["bfloat16"])
    sinks = np.array([87, 89], "f4")
    here, there = (
        Target("cython", isa, None).both(q, k, v, sinks=sinks)[0].astype(float)
        for isa in ("amx", "amx_model")
    )
    np.testing.assert_array_equal(here, there)
    subnormal = (here != 0) & (abs(here) < 2.0**-126)
    assert 0 < subnormal.sum() < here.size


REFUSED = """
import ctypes

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

memory = ctypes.create_string_buffer(8192)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
"""


@on_hardware
def test_without_permission_other_kernels_compute() -> None:
    """A signal stack without room for tiles: the system refuses, and nothing else happens."""
    run_python(
        REFUSED
        + """
import numpy as np
import fastattn

x = np.random.default_rng(1).standard_normal((3, 1, 256, 64)).astype("f4")
explained = fastattn.explain(*x, impl="cython")
got = fastattn.attention(*x, impl="cython")
here = fastattn.machine()
why = here.missing_isas["amx"]
assert "amx" not in here.isas and "does not let this process" in why, why
assert explained.config.isa == here.isas[0] != "amx"
assert f"amx: {why}" in explained.reasons["isa"], explained
config = fastattn.Config(isa=here.isas[0])
np.testing.assert_array_equal(got, fastattn.attention(*x, impl="cython", config=config))
try:
    fastattn.attention(*x, impl="cython", config=fastattn.Config(isa="amx"))
except fastattn.UnavailableError as error:
    assert why in str(error), error
else:
    raise AssertionError("amx was not refused")
"""
    )


HEADER = """
import ctypes
import os
import ml_dtypes  # with it, NumPy knows the name bfloat16
import numpy as np
import fastattn
from fastattn import Config, _plan

def asked():
    get, tile_data = 0x1022, 1 << 18  # ARCH_GET_XCOMP_PERM
    permitted = ctypes.c_uint64()
    assert ctypes.CDLL(None).syscall(158, get, ctypes.byref(permitted)) == 0  # arch_prctl
    return bool(permitted.value & tile_data)

def arrays(dtype, queries):
    q, k, v = np.zeros((3, 1, 512, 64), dtype)
    return q[:, :queries], k, v

def compute(dtype, queries, **fields):
    fastattn.attention(*arrays(dtype, queries), config=Config(**fields))

assert not asked()
"""


@on_hardware
def test_permission_is_asked_for_late(wisdom_folder: Path) -> None:
    """Not by calls that other kernels compute, nor for what was tuned for the tiles beside them."""
    for dtype, queries in (("bfloat16", 16), ("float32", 512)):
        problem = spec_of((1, 1, 1, queries, 512, 64), dtype)
        _wisdom.remember(problem, "cython", fastattn.Config(block_k=64), {})
    run_python(
        HEADER
        + """
compute("float64", 512)
for dtype in "float32", "float16", "bfloat16":
    compute(dtype, 8)
    compute(dtype, 512, isa="avx512")
fastattn.explain(*arrays("bfloat16", 512), impl="numpy")
os.environ["FASTATTN_ISA"] = "avx512"
compute("bfloat16", 512)
assert not asked()
del os.environ["FASTATTN_ISA"]
_plan._plan.cache_clear()
compute("bfloat16", 512)
assert asked()
"""
    )


@on_hardware
@pytest.mark.parametrize("asks", ["fastattn.machine()", "compute('float32', 8, isa='amx')"])
def test_permission_is_asked_for(asks: str) -> None:
    """By whoever names the tiles, or wants to know what can run here."""
    run_python(f"{HEADER}\n{asks}\nassert asked()")


@on_hardware
def test_wisdom_of_tiles_without_permission(wisdom_folder: Path) -> None:
    """What was tuned for them does not serve, be they named or not; what is tuned now does."""
    for queries, config in ((8, fastattn.Config(isa="amx")), (512, fastattn.Config(block_k=64))):
        _wisdom.remember(spec_of((1, 1, 1, queries, 512, 64), "bfloat16"), "cython", config, {})
    code = (
        HEADER
        + """
from fastattn import _wisdom
from fastattn._shapes import spec_of

for queries in 8, 512:
    explained = fastattn.explain(*arrays("bfloat16", queries))
    assert ("tuned here" in str(explained)) == TUNED, explained
    assert (explained.config.isa == "amx") == TUNED, explained
compute("bfloat16", 8)
if not TUNED:
    chosen = Config(isa=explained.config.isa, block_k=96)
    _wisdom.remember(spec_of((1, 1, 1, 512, 512, 64), "bfloat16"), "cython", chosen, {})
    assert fastattn.explain(*arrays("bfloat16", 512)).config.block_k == 96
"""
    )
    run_python(f"TUNED = True\n{code}")
    run_python(f"{REFUSED}\nTUNED = False\n{code}")
    configs = [entry.config for entry in fastattn.wisdom.entries()]
    assert fastattn.Config(isa="avx512", block_k=96) in configs  # elsewhere, it is not the default


@on_hardware
def test_explain_tells_which_kernels_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large calls of the tiles' types; not small ones, float64, or what a caller excludes."""
    large = np.zeros((3, 1, 512, 128), np.float32)

    def isa(arrays: np.ndarray, **arguments: Any) -> tuple[str | None, str]:
        explained = fastattn.explain(*arrays, impl="cython", **arguments)
        return explained.config.isa, explained.reasons.get("isa", "")

    assert isa(large)[0] == "amx"
    chosen, reason = isa(large[:, :, :1])
    assert chosen != "amx"
    assert "amx is for larger calls" in reason
    chosen, reason = isa(large.astype(np.float64))
    assert chosen != "amx"
    assert "amx" not in reason
    other = fastattn.machine().isas[1]
    assert isa(large, config=fastattn.Config(isa=other))[0] == other
    monkeypatch.setenv("FASTATTN_ISA", other)
    assert isa(large[:, :, :480]) == (other, "FASTATTN_ISA")


@on_hardware
def test_processor_state_is_as_it_was() -> None:
    """Tiles are released after each call, and MXCSR is the caller's."""
    run_python(
        """
        import ctypes, mmap
        import numpy as np
        import fastattn

        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))

        def function(code, *arguments):
            at = page.tell()
            page.write(bytes.fromhex(code))
            return ctypes.CFUNCTYPE(ctypes.c_uint32, *arguments)(address + at)

        in_use = function("b901000000 0f01d0 c3")                # mov ecx, 1; xgetbv; ret
        use = function("c4e2784907 c4e27b49c0 c3", ctypes.c_void_p)  # ldtilecfg [rdi]; tilezero
        read = function("0fae5c24fc 8b4424fc c3")                # stmxcsr [rsp-4]; mov eax, [rsp-4]
        write = function("897c24fc 0fae5424fc c3", ctypes.c_uint32)  # ldmxcsr of edi
        TILES, FLAGS = 0x60000, 0x3f

        x = np.random.default_rng(1).standard_normal((3, 1, 256, 64)).astype("f4")
        config = fastattn.Config(isa="amx", threads=1)
        before = read()
        assert not in_use() & TILES
        for rounding in (0, 0x6000):  # to nearest, to zero
            for dtype in "f4", "f2":
                write(before & ~0x6000 | rounding)
                fastattn.attention(*x.astype(dtype), impl="cython", config=config)
                after = read()
                write(before)
                assert (after ^ before) & ~FLAGS == rounding, hex(after)
                assert not in_use() & TILES
        # The test can see what it looks for; and tiles that a caller left are released.
        shape = bytearray(64)
        shape[0], shape[16], shape[48] = 1, 64, 16
        use(ctypes.addressof(ctypes.c_char.from_buffer(shape)))
        assert in_use() & TILES == TILES, hex(in_use())
        """
    )


@pytest.mark.parametrize("dims", [(64, 64), (40, 72)], ids=str)
@pytest.mark.parametrize("tiles", [target.parameter() for target in TARGETS if target.tiles])
def test_few_rows_give_the_bits_of_many(tiles: Target, dims: tuple[int, int]) -> None:
    """Blocks of 16 rows have a tile of their own in bfloat16; it sums in the same order."""
    rng = np.random.default_rng(7)
    q = rng.standard_normal((2, 48, dims[0]))
    k, v = (rng.standard_normal((2, 700, dim)) for dim in dims)
    k *= np.geomspace(1, 300, 700)[:, None]  # maxima come late
    k[0, 333, 3], v[1, 290, 5], v[0, 650, 7] = 1e20, np.nan, 1e30
    q, k, v = (x.astype(DTYPES["bfloat16"]) for x in (q, k, v))
    for arguments in (
        {},
        {"causal": True, "align": "bottom_right"},
        {"window": (130, 70), "align": 300},
        {"mask": rng.random((48, 700)) < 0.9, "softcap": 20.0},
    ):
        few, many = (
            tiles.both(q, k, v, tunables={"block_q": rows, "block_k": 320}, **arguments)
            for rows in (16, 48)
        )
        np.testing.assert_array_equal(few[0].astype(float), many[0].astype(float))
        np.testing.assert_array_equal(few[1], many[1])
        assert 0 < np.isnan(many[0].astype(float)).sum() < many[0].size / 2


@pytest.mark.parametrize("block_k", [64, 192])
@pytest.mark.parametrize("dtype", tile_types)
@pytest.mark.parametrize("tiles", [target.parameter() for target in TARGETS if target.tiles])
def test_large_results_give_the_bits_of_small_ones(tiles: Target, dtype: str, block_k: int) -> None:
    """Rows of large results are written panel by panel, those of others together."""
    rng = np.random.default_rng(8)
    q, k, v = (rng.standard_normal((2, n, dim)) for n, dim in ((250, 32), (130, 32), (130, 520)))
    q[0, 40, 3], k[0, 70, 5], v[0, 120, 7], v[1, 90, 515] = 1e20, 1e20, 1e30, np.nan
    with np.errstate(over="ignore"):
        q, k, v = (x.astype(DTYPES[dtype]) for x in (q, k, v))
    for arguments in (
        {},
        {"causal": True, "align": "top_left"},
        {"window": (40, 20), "align": -60},
        {"mask": rng.random((250, 130)) < 0.9, "sinks": np.array([0.5, 2.0], "f4")},
    ):
        large, small = (
            tiles.both(q, k, v, tunables={"block_q": rows, "block_k": block_k}, **arguments)
            for rows in (256, 64)
        )
        np.testing.assert_array_equal(large[0].astype(float), small[0].astype(float))
        np.testing.assert_array_equal(large[1], small[1])
        assert 0 < np.isnan(large[0].astype(float)).sum() < large[0].size / 2


@pytest.mark.skipif(not THOROUGH, reason="errors of 1,500 shapes: make test-thorough")
@pytest.mark.parametrize("dtype", tile_types)
@pytest.mark.parametrize("tiles", [target.parameter() for target in TARGETS if target.tiles])
def test_errors_of_many_shapes(tiles: Target, dtype: str) -> None:
    """float32: those of the naive computation, or less; 16 bits: those of rounding once."""
    figures = error_statistics(tiles, dtype, 1_500)
    if dtype == "float32":
        assert figures["median"] <= 0.6, figures
        assert figures["95 %"] <= 1.5, figures
    else:
        assert figures["rms"] <= 1.05, figures


# Arrays of a call from normal numbers: q (Lq, D), k (Lk, D), v (Lk, Dv).
KINDS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
    "normal": lambda q, k, v: (q, k, v),
    "sharp": lambda q, k, v: (3 * q, 3 * k, v),
    "sharper": lambda q, k, v: (10 * q, k, v),
    "values of one sign": lambda q, k, v: (q, k, v + 10),
    "all of one sign": lambda q, k, v: (abs(q), abs(k), abs(v)),
    "values of all sizes": lambda q, k, v: (q, k, v * 10 ** np.linspace(-4, 4, v.shape[1])),
    "log-normal": lambda q, k, v: (q, np.exp(k), np.exp(v)),
    "outlier channels": lambda q, k, v: (
        q * np.where(np.arange(q.shape[1]) % 16, 1, 0.01),
        k * np.where(np.arange(k.shape[1]) % 16, 1, 50),
        v,
    ),
    "distant keys": lambda q, k, v: (q, k + 20, v),
    "small": lambda q, k, v: (0.01 * q, 0.01 * k, 0.01 * v),
}


def error_statistics(target: Target, dtype: str, count: int) -> dict[str, float]:
    """Errors of random calls of many kinds, relative to float64.

    float32: median and 95th percentile of the largest error over that of the naive computation,
    which counts at least half a unit of the largest result.  16 bits: the root mean square over
    all calls, each relative to its values, over that of exact results rounded once.
    """
    rng = np.random.default_rng(21)
    kind = DTYPES[dtype]
    ratios, ours, rounded = [], 0.0, 0.0
    for index in range(count):
        made = list(KINDS.values())[index % len(KINDS)]
        length_q, length_k = int(rng.integers(32, 100)), int(2 ** rng.uniform(6, 10.5))
        dim, dim_v = (int(d) for d in rng.choice([32, 64, 80, 128, 256], 2))
        shapes = (length_q, dim), (length_k, dim), (length_k, dim_v)
        q, k, v = (x.astype(kind) for x in made(*map(rng.standard_normal, shapes)))
        arguments = {"causal": True, "align": "bottom_right"} if index % 3 == 0 else {}
        out = target.attention(q, k, v, **arguments).astype(float)
        exact = oracle.definition(q, k, v, working=np.float64, **arguments).out
        error = np.abs(out - exact)
        if dtype == "float32":
            naive = oracle.definition(q, k, v, working=np.float32, **arguments).out
            floor = np.spacing(np.float32(np.abs(exact).max())) / 2
            ratios.append(error.max() / max(np.abs(naive - exact).max(), floor))
        else:
            size = np.abs(exact).max(axis=0)
            ours += np.square(error / size).mean()
            rounded += np.square((exact.astype(kind).astype(float) - exact) / size).mean()
    if dtype == "float32":
        return {"median": float(np.median(ratios)), "95 %": float(np.quantile(ratios, 0.95))}
    return {"rms": float((ours / rounded) ** 0.5)}
