"""What happens to a process beside its calls: no memory, forks, interrupts, small stacks, its end.

Each test is one process, or a few, with many cases.  ``HYPOTHESIS_PROFILE=thorough`` makes them
more.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_python
from targets import THOROUGH
from test_build import compiler

import fastattn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it"),
]
native = pytest.mark.skipif(not fastattn.machine().isas, reason="cython: not built")
TIMES = 10 if THOROUGH else 1

HEADER = """
import ctypes, os, random, signal, sys, threading, time
import numpy as np
import fastattn
from fastattn import _plan, _shapes

signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)

def problem(length, impl, **fields):
    '''A call, and its result.'''
    x = rng.standard_normal((3, 2, length, 32)).astype(np.float32)
    config = fastattn.Config(**fields)

    def call():
        return fastattn.attention(*x, causal=True, impl=impl, config=config, return_lse=True)

    result = call()
    return call, lambda got: all(map(np.array_equal, got, result))

def forget_plans():
    _plan._plan.cache_clear()
    _shapes.SPECS.clear()

def forked(work):
    '''Whether `work`, in a forked child, returns True within a minute; or its exit status.'''
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            status = 0 if work() is True else 1
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status == 0 or status
"""

FAILING = """
MANY = 30  # not all: while every allocation fails, CPython may handle its own MemoryErrors for ever

library = ctypes.PyDLL(None)
library.call_failing.restype = ctypes.py_object
library.call_failing.argtypes = [
    ctypes.py_object, ctypes.c_long, ctypes.c_long, ctypes.POINTER(ctypes.c_int)
]

def failing(call, first, count):
    '''Its result, None if there was no memory; and whether it allocates fewer times.'''
    ended = ctypes.c_int()
    try:
        got = library.call_failing(call, first, count, ctypes.byref(ended))
    except (MemoryError, SystemError) as error:
        # SystemError: where Python or NumPy forget to say why they failed.
        assert isinstance(error, MemoryError) or "without" in str(error), error
        got = None
    return got, bool(ended.value)
"""


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Library to preload, which fails the allocations that a test names."""
    library = tmp_path_factory.mktemp("malloc") / "failing.so"
    source = Path(__file__).parent / "failing_malloc.cpp"
    command = [*compiler(), "-std=c++20", "-O1", "-shared", "-fPIC", source, "-o", library]
    subprocess.run(command, check=True)
    return library


@native
def test_any_allocation_may_fail(failing_malloc: Path) -> None:
    """Each allocation of a call, alone and with many after it: MemoryError, and the next is right.

    Of a planned call and of one that is planned anew.
    """
    run_python(
        HEADER
        + FAILING
        + """
call, right = problem(40, "cython")
for planned in True, False:
    for count in 1, MANY:
        for first in range(1, 10**6):
            planned or forget_plans()
            got, ended = failing(call, first, count)
            assert got is None or right(got), first
            assert right(call()), first
            if ended:
                break
        assert first > (10 if planned else 100), first
""",
        LD_PRELOAD=str(failing_malloc),
        PYTHONMALLOC="malloc",
        FASTATTN_WISDOM="off",
    )


@native
def test_a_threads_first_call_without_memory(failing_malloc: Path) -> None:
    """Its scratch, the pool, its helpers: none can be had, and the process goes on."""
    run_python(
        HEADER
        + FAILING
        + """
call, right = problem(300, "cython", threads=3, block_q=16)


def child(first, count):
    fastattn.machine()
    call()
    found = []

    def work():
        got, ended = failing(call, first, count)
        found.append((got is None or right(got), ended, right(call())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    [(fine, ended, after)] = found
    if ended:
        os._exit(3)
    return fine and after

for count in 1, MANY:
    for first in range(1, 1000):
        status = forked(lambda: child(first, count))
        if status == 3:
            break
        assert status is True, (first, count, status)
    assert first > 10, first
""",
        LD_PRELOAD=str(failing_malloc),
        PYTHONMALLOC="malloc",
        FASTATTN_WISDOM="off",
    )


@native
@pytest.mark.parametrize("threading", ["pool", "openmp"])
def test_fork_in_every_state(threading: str) -> None:
    """Before the pool is made, while it rests and works, and from another thread."""
    run_python(
        HEADER
        + f"""
TIMES = {TIMES}
"""
        + """
call, right = problem(200, "cython", threads=2, block_q=16)

def child():
    return right(call()) and forked(lambda: right(call())) is True

def fork_often():
    for _ in range(5 * TIMES):
        outcomes.append(forked(child))

outcomes = []
fork_often()
stop, errors = threading.Event(), []

def work():
    while not stop.is_set():
        if not right(call()):
            errors.append("wrong beside forks")

busy = [threading.Thread(target=work) for _ in range(2)]
for thread in busy:
    thread.start()
fork_often()
other = threading.Thread(target=fork_often)
other.start()
other.join()
stop.set()
for thread in busy:
    thread.join()
fork_often()
assert outcomes == [True] * 20 * TIMES, outcomes
assert not errors
""",
        FASTATTN_THREADING=threading,
    )


@native
def test_exit_while_threads_compute() -> None:
    """The process ends at once, whatever its daemon threads are doing."""
    for _ in range(4 * TIMES):
        run_python(
            HEADER
            + """
call, right = problem(400, "cython", threads=2, block_q=16)

def work():
    while True:
        call()

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(random.random() / 20)
""",
            timeout_seconds=60,
        )


def test_small_stacks() -> None:
    """Threads of 128 KiB, as some systems have them by default, are enough for a call."""
    run_python(
        HEADER
        + """
cases = [(impl, isa) for impl, why in fastattn.implementations().items() if why is None
         for isa in (fastattn.machine().isas if impl == "cython" else (None,))]
for impl, isa in cases:
    fields = {} if isa is None else {"isa": isa, "threads": 2}
    for length in 3, 300:
        call, right = problem(length, impl, **fields)
        found = []
        threading.stack_size(128 * 1024)
        thread = threading.Thread(target=lambda: found.append(right(call())))
        threading.stack_size(0)
        thread.start()
        thread.join()
        assert found == [True], (impl, isa, length)
"""
    )


def test_interrupts_at_random_moments() -> None:
    """Ctrl-C while a call is checked, planned, computed: it is raised, and the next is right."""
    run_python(
        HEADER
        + f"""
TIMES = {TIMES}
"""
        + """
signal.signal(signal.SIGALRM, signal.default_int_handler)
runnable = [impl for impl, why in fastattn.implementations().items() if why is None]
cases = [problem(length, impl) for impl in runnable for length in (20, 200)]
interrupted = 0
for n in range(100 * TIMES):
    call, right = cases[n % len(cases)]
    forget_plans()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + random.random() * 1e-3)
        while True:
            call()
    except KeyboardInterrupt:
        interrupted += 1
    assert right(call()), n
assert interrupted == 100 * TIMES
"""
    )


def test_little_address_space() -> None:
    """MemoryError, or the right result, however little is left; and right once there is more."""
    run_python(
        HEADER
        + """
import resource
call, right = problem(1500, "auto", threads=2)
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmSize" in line)
refused = 0
for room in (0, 1 << 12, 1 << 16, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 25):
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    try:
        got = call()
    except MemoryError:
        got = None
        refused += 1
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert got is None or right(got), room
    assert right(call()), room
    del got
"""
    )


def test_subinterpreters() -> None:
    """Right, or refused by an ImportError, as NumPy does it."""
    run_python(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        code = '''
        import numpy as np
        import fastattn
        x = np.random.default_rng(0).standard_normal((3, 4, 4))
        np.testing.assert_allclose(fastattn.attention(x[0], x[0], np.ones((4, 4))), 1)
        '''
        try:
            found = interpreters.run_string(interpreters.create(), code)
        except Exception as error:  # of a type that depends on the version
            found = error
        assert found is None or "ImportError" in str(getattr(found, "type", found)), found
        """
    )
