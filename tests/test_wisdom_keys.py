"""Classes of problems, neighbours, and what identifies a machine and build."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run_python
from remembered import spec

import fastattn
from fastattn._wisdom import keys
from fastattn.implementations import load

counts = st.one_of(st.integers(1, 5000), st.integers(1, 2**62))
shapes = st.tuples(
    st.integers(1, 5),
    st.sampled_from([1, 2, 3, 4, 6, 8, 12]),
    st.integers(1, 4),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 40),
).map(lambda s: (s[0], s[1] * s[2], s[2], *s[3:]))
bands = st.one_of(
    st.none(),
    st.tuples(st.one_of(st.none(), st.integers(0, 99)), st.one_of(st.none(), st.integers(0, 99))),
)


@given(count=counts)
def test_every_count_is_in_one_bucket(count: int) -> None:
    """That of the nearest half octave, exactly; buckets follow each other without gap."""
    found = keys.bucket(count)
    # 2^(b - 1/2) <= n^2 < 2^(b + 1/2), in whole numbers
    assert 2 ** (2 * found) <= 2 * count**4 < 2 ** (2 * found + 2)
    assert abs(found - 2 * math.log2(count)) < 0.5 + 1e-9
    assert keys.bucket(count + 1) - found in ((0, 2) if count == 1 else (0, 1))


def test_powers_of_two_lie_in_the_middle() -> None:
    """So that 1000, 1024 and 1100 are one class, and octaves are two buckets apart."""
    assert [keys.bucket(2**n) for n in range(63)] == list(range(0, 126, 2))
    assert keys.bucket(1000) == keys.bucket(1024) == keys.bucket(1100)
    assert keys.bucket(800) < keys.bucket(1024) < keys.bucket(1300)


@given(shape=shapes, causal=st.booleans(), window=bands, threads=st.integers(1, 64))
def test_key(
    shape: tuple[int, ...],
    causal: bool,
    window: tuple[int | None, int | None] | None,
    threads: int,
) -> None:
    """Follows from the class alone, and tells apart what it should."""
    problem = spec(shape, causal=causal, window=window)
    key = keys.key_of(problem, "auto", threads, None)
    assert key == keys.key_of(spec(shape, "float32", causal, window), "auto", threads, None)
    assert key.dim, key.dim_v == shape[5:]
    assert 2 ** (key.group - 1) < shape[1] // shape[2] <= 2**key.group
    assert key.heads == keys.bucket(shape[0] * shape[2])
    others = {
        key,
        keys.key_of(problem, "cython", threads, None),
        keys.key_of(problem, "auto", threads + 1, None),
        keys.key_of(problem, "auto", threads, "avx2"),
        keys.key_of(spec(shape, "float64", causal, window), "auto", threads, None),
        keys.key_of(spec(shape, "float32", not causal, window), "auto", threads, None),
        keys.key_of(spec(shape, "float32", causal, (1000, 3)), "auto", threads, None),
    }
    assert len(others) == 7
    assert len({keys.digest(other) for other in others}) == 7


@given(shape=shapes, other=shapes)
def test_near_buckets_are_symmetric(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    """And within an octave in each size, all else being equal; nearest first, each once."""
    here, there = (keys.key_of(spec((*s[:5], 8, 8)), "auto", 1, None) for s in (shape, other))
    near, back = [key for key, _ in keys.candidates(here)], dict(keys.candidates(there))
    assert near[0] == here
    assert len(near) == len(set(near)) == 125
    assert (there in near) == (here in back)
    sizes = ("heads", "length_q", "length_k")
    apart = {name: abs(getattr(here, name) - getattr(there, name)) for name in sizes}
    assert (there in near) == (max(apart.values()) <= 2 and here.group == there.group)
    steps = [sum(abs(getattr(here, n) - getattr(key, n)) for n in sizes) for key in near]
    assert steps == sorted(steps)
    assert [key for key, same in keys.candidates(here) if same] == [here]


def test_what_was_found_for_auto_may_serve_one_implementation() -> None:
    """After its own, at each distance; never the other way round."""
    auto = keys.key_of(spec(), "auto", 1, None)
    asked = replace(auto, requested="numba")
    found = list(keys.candidates(asked))
    assert found[:2] == [(asked, True), (auto, True)]
    assert [key.requested for key, _ in found] == ["numba", "auto"] * 125
    assert {key.requested for key, _ in keys.candidates(auto)} == {"auto"}


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment forces, else the usable CPUs."""
    assert keys.limits(spec()) == (fastattn.machine().usable_cpus, None)
    monkeypatch.setenv("FASTATTN_NUM_THREADS", "3")
    monkeypatch.setenv("FASTATTN_ISA", "avx2")
    assert keys.limits(spec()) == (3, "avx2")


X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Some Xeon
stepping\t: 8

processor\t: 1
model\t\t: 9
"""
ARM = """processor       : 0
BogoMIPS        : 50.00
CPU implementer : 0x41
CPU architecture: 8
CPU variant     : 0x3
CPU part        : 0xd0c
CPU revision    : 1
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (X86, "GenuineIntel-6-143-8"),
        (ARM, "0x41-8-0x3-0xd0c-1"),
        ("strange\n", "abacus"),
        (None, "abacus"),
    ],
)
def test_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, name: str) -> None:
    """Of the first processor; else what Python knows."""
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    assert keys.cpu(cpuinfo) == name


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tells apart builds of any implementation, and kernels of the data type alone."""
    before = {dtype: keys.here(dtype) for dtype in ("float32", "bfloat16")}
    offered = keys.offered_isas

    def more(dtype: str, operation: str) -> list[str]:
        return [*["new"] * (dtype == "bfloat16"), *offered(dtype, operation)]

    for name, changed in (("machine", ("bfloat16",)), ("implementation", ("float32", "bfloat16"))):
        with monkeypatch.context() as patch:
            if name == "machine":
                patch.setattr(keys, "offered_isas", more)
            else:
                patch.setattr(load("numpy"), "fingerprint", lambda: {"numpy": "99"})
            for dtype, digest in before.items():
                after = keys.digest(keys.environment.__wrapped__(dtype))
                assert (after != digest) == (dtype in changed)


def test_the_same_in_every_process() -> None:
    """Digests depend on no hash seed, and a fork does not keep what may have changed."""
    code = """
        import os
        from fastattn._wisdom import keys
        environment = keys.environment("float32", "forward")
        first, cpu = keys.here("float32"), environment["cpu"]
        keys.here.cache_clear()
        environment["cpu"] = "changed"
        assert keys.here("float32") != first
        child = os.fork()
        if child == 0:
            again = keys.environment("float32", "forward")
            same = keys.here("float32") == first and again["cpu"] == cpu
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(first)
        """
    found = {run_python(code, PYTHONHASHSEED=seed).strip() for seed in "12"}
    assert found == {keys.here("float32")}
