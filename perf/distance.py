"""How far apart two CPUs are: how long a word takes from one to the other and back.

CPUs that share a cache hand over a word in tens of nanoseconds, others in hundreds.  A hypervisor
may move its guest's CPUs from one second to the next without saying so; what two threads compute
together may then take half as long again, to a degree that depends on the library.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Sequence
from types import TracebackType

WORDS, TRIES = 400, 5  # words there and back in a try, and tries, of which the least counts
LOOKS = 1_000_000  # for a word before giving up: a fraction of a second
ASKED, ANSWERED = 0, 1024  # where the words are stored, in separate cache lines


class Distance:
    """Measures whenever it is asked, with a helper process on the other CPU.

    A context manager.  The helper is forked, so enter it before any thread is started.

    Parameters
    ----------
    cpus : sequence of int
        CPUs that this process may use; the first and the last are measured.
    """

    def __init__(self, cpus: Sequence[int]) -> None:
        self._here, self._there = cpus[0], cpus[-1]
        self._child: int | None = None

    def __enter__(self) -> Distance:
        """Start the helper, if there is another CPU and the system lets us choose."""
        if self._here == self._there or not hasattr(os, "sched_setaffinity"):
            return self
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        asked, self._ask = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._ask)
            _answer(self._memory, asked, self._there)
        os.close(asked)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the helper."""
        if self._child is None:
            return
        os.close(self._ask)
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._memory.close()
        self._child = None

    def seconds(self) -> float | None:
        """Least time there and back, the interpreter's included; None if it is unknown."""
        if self._child is None:
            return None
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._here})
        try:
            os.write(self._ask, b"?")
            tries = [_to_and_fro(self._memory) for _ in range(TRIES)]
        finally:
            os.sched_setaffinity(0, allowed)
        return min((seconds for seconds in tries if seconds is not None), default=None)


def _to_and_fro(memory: mmap.mmap) -> float | None:
    """One try.  Each word differs from the one before, even from the last of an earlier try."""
    start = time.perf_counter()
    for number in range(WORDS):
        memory[ASKED] = word = 1 + number % 250
        for _ in range(LOOKS):
            if memory[ANSWERED] == word:
                break
        else:
            return None
    return (time.perf_counter() - start) / WORDS


def _answer(memory: mmap.mmap, asked: int, cpu: int) -> None:
    """What the helper does until it is killed; it never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        os.sched_setaffinity(0, {cpu})
        seen = 0
        while os.read(asked, 1):
            for _ in range(TRIES * WORDS):
                for _ in range(LOOKS):
                    if (word := memory[ASKED]) != seen:
                        break
                else:
                    break  # the parent has given up, or is gone
                memory[ANSWERED] = seen = word
    finally:
        os._exit(0)
