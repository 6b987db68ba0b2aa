"""Many Python threads, a forked child, the GIL, an interrupt: in processes of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from processes import run_python
from targets import TARGETS, Target

from fastattn._machine import native

HEADER = """
import json, os, signal, sys, threading, time
import numpy as np
import fastattn

how = json.loads(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where started with &
config = fastattn.Config(**how["config"])

def attention(*arrays, **arguments):
    return fastattn.attention(*arrays, impl=how["impl"], config=config, **arguments)

def plain(q, k, v):
    s = q.astype(float) @ k.astype(float).swapaxes(-1, -2) / q.shape[-1] ** 0.5
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v.astype(float)

rng = np.random.default_rng(0)

def arrays(length):
    return rng.standard_normal((3, 2, length, 32)).astype(np.float32)

def check(x, got):
    assert np.abs(got - plain(*x)).max() < 1e-5, "wrong result"
"""


class Way(NamedTuple):
    """A target, and how the threads of a call share its work."""

    target: Target
    threading: str


def _ways(wanted: Callable[[Target], bool]) -> pytest.MarkDecorator:
    """Repeat a test for the targets that are wanted, each with every way that it has."""
    ways = [
        pytest.param(
            Way(target, threading),
            id=target.name if threading == "pool" else f"{target.name}-{threading}",
            marks=target.parameter().marks,
        )
        for target in filter(wanted, TARGETS)
        for threading in ("pool", "openmp")
        if threading == "pool" or target.impl == "cython"
    ]
    return pytest.mark.parametrize("way", ways)


all_ways = _ways(lambda target: True)
tiled_ways = _ways(lambda target: target.tiled)
native_ways = _ways(lambda target: target.impl == "cython")


def _run(way: Way, code: str, **tunables: int) -> str:
    target, threading = way
    if threading == "openmp" and not _has_openmp():
        pytest.skip("this build has no OpenMP")
    how = {
        "impl": target.impl,
        "config": target.config(**tunables).explicit(),
        "second": "float64" if target.serves(np.float64) else "float16",
    }
    return run_python(HEADER + code, json.dumps(how), FASTATTN_THREADING=threading)


def _has_openmp() -> bool:
    binding, _ = native()
    return binding is not None and binding.OPENMP


pytestmark = pytest.mark.slow


@all_ways
def test_many_python_threads_at_once(way: Way) -> None:
    """Each gets its own result, bit by bit the one it gets alone."""
    _run(
        way,
        """
problems = [arrays(length) for length in (1, 17, 60, 64, 100, 129, 200, 33)]
alone = [attention(*x) for x in problems]
for x, got in zip(problems, alone):
    check(x, got)
wrong = []
barrier = threading.Barrier(len(problems))

def work(x, expected):
    barrier.wait()
    for _ in range(20):
        if not np.array_equal(attention(*x), expected):
            wrong.append(x[0].shape)

threads = [threading.Thread(target=work, args=pair) for pair in zip(problems, alone)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
""",
        threads=2,
    )


@native_ways
def test_mixed_calls_on_many_python_threads(way: Way) -> None:
    """Defaults for all: split keys, few and many rows, several heads, splits that see nothing."""
    _run(
        way,
        """
def problem(heads, heads_kv, length_q, length_k, dim, dtype=np.float32, **arguments):
    shapes = (heads, length_q, dim), (heads_kv, length_k, dim), (heads_kv, length_k, dim + 3)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes], arguments

problems = [
    problem(1, 1, 1, 6000, 64),
    problem(8, 2, 1, 3000, 32, kv_lengths=1500),
    problem(2, 2, 3, 5000, 16, mask=rng.random((3, 5000)) < 0.01),
    problem(2, 2, 300, 300, 64, causal=True),
    problem(4, 1, 70, 200, 24, np.dtype(how["second"])),
    problem(1, 1, 5, 40, 8, np.float16, sinks=np.ones(1, np.float32)),
    problem(3, 3, 600, 500, 32, window=(40, 40), align=0),
    problem(1, 1, 2, 2500, 600),
]
alone = [attention(*x, **arguments, return_lse=True) for x, arguments in problems]
check(problems[0][0], alone[0][0])
wrong = []
barrier = threading.Barrier(len(problems))

def work(first):
    barrier.wait()
    for i in range(24):
        at = (first + i) % len(problems)
        x, arguments = problems[at]
        got = attention(*x, **arguments, return_lse=True)
        if not all(map(np.array_equal, got, alone[at])):
            wrong.append(at)

threads = [threading.Thread(target=work, args=(i,)) for i in range(len(problems))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
""",
    )


@_ways(lambda target: target.impl == "cython" and target.missing is None)
def test_the_same_bits_either_way(way: Way) -> None:
    """How threads share the work, and how many they are, changes no bit."""
    code = """
import hashlib
digest = hashlib.sha256()
for shape in ((1, 2, 3, 5000, 16), (2, 6, 300, 300, 64), (1, 1, 1, 6000, 80)):
    batch, heads, length_q, length_k, dim = shape
    q = rng.standard_normal((batch, heads, length_q, dim)).astype(np.float32)
    k, v = rng.standard_normal((2, batch, heads, length_k, dim)).astype(np.float32)
    for array in attention(q, k, v, return_lse=True):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""
    alone = _run(Way(way.target, "pool"), code, threads=1, block_q=64)
    assert _run(way, code, threads=3, block_q=64) == alone


@all_ways
def test_threads_share_the_first_call(way: Way) -> None:
    """Compiling and loading happen once, whoever comes first."""
    _run(
        way,
        """
problems = [arrays(length) for length in (20, 30, 40, 50)]
results = [None] * 4
barrier = threading.Barrier(4)

def work(i):
    barrier.wait()
    results[i] = attention(*problems[i])

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for x, got in zip(problems, results):
    check(x, got)
""",
        threads=2,
    )


@all_ways
def test_forked_child(way: Way) -> None:
    """A child forked after parallel work computes, as do its parent and its own child."""
    _run(
        way,
        """
x = arrays(300)
expected = attention(*x)
check(x, expected)

def forked(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"child ended with {status}"

def same():
    assert np.array_equal(attention(*x), expected)

forked(same)
same()
forked(lambda: (same(), forked(same), same()))
same()
""",
        threads=2,
    )


@tiled_ways
def test_gil_is_released(way: Way) -> None:
    """Another Python thread goes on while a long call computes."""
    _run(
        way,
        """
attention(*arrays(8))
ticks, done = [], threading.Event()

def tick():
    while not done.is_set():
        ticks.append(time.monotonic())
        time.sleep(0.005)

length, inside, took = 512, 0, 0.0
clock = threading.Thread(target=tick)
clock.start()
while took < 0.3:
    length *= 2
    x = arrays(length)
    start = time.monotonic()
    attention(*x)
    took = time.monotonic() - start
    inside = sum(start + 0.1 * took < t < start + 0.9 * took for t in ticks)
done.set()
clock.join()
assert inside >= 3, f"{inside} ticks inside a call of {took} s"
""",
        threads=1,
    )


@all_ways
def test_interrupt_leaves_things_usable(way: Way) -> None:
    """Ctrl-C in a long call is raised, and the next call is right."""
    _run(
        way,
        """
small = arrays(50)
check(small, attention(*small))
x = arrays(1024)
interrupts = 0
for _ in range(3):
    timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            attention(*x)
    except KeyboardInterrupt:
        interrupts += 1
    timer.join()
    check(small, attention(*small))
assert interrupts == 3, interrupts
""",
        threads=2,
    )


@tiled_ways
def test_more_threads_than_cpus_or_work(way: Way) -> None:
    """Any number that `Config` takes."""
    _run(
        way,
        """
for length in (1, 3, 100):
    x = arrays(length)
    for threads in (1, 2, 5, 64, 1024):
        config = fastattn.Config(**{**how["config"], "threads": threads})
        check(x, attention(*x))
""",
        block_q=2,
    )


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="threads are bound as Linux does it, to one of several CPUs",
)
def test_helpers_of_a_bound_thread_serve_the_others(target: Target) -> None:
    """The first call may come from a thread that is bound to one CPU: its helpers are not."""
    if target.impl != "cython":
        pytest.skip("its threads are BLAS's, or an executor's")
    _run(
        Way(target, "pool"),
        """
cpus = os.sched_getaffinity(0)
x = arrays(600)
alive = threading.Event()
before = set(os.listdir("/proc/self/task"))

def bound():
    os.sched_setaffinity(0, {min(cpus)})
    attention(*x)
    alive.wait()

caller = threading.Thread(target=bound, daemon=True)
caller.start()
deadline = time.monotonic() + 10
while True:
    helpers = {int(t) for t in set(os.listdir("/proc/self/task")) - before} - {caller.native_id}
    allowed = [os.sched_getaffinity(t) for t in helpers]
    if helpers and all(a == cpus for a in allowed):
        break
    assert time.monotonic() < deadline, allowed
    time.sleep(0.01)
alive.set()
""",
        threads=2,
    )
