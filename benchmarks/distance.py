"""How far apart two CPUs are: how long a word takes from one to the other and back.

CPUs that share a cache hand a word over in tens of nanoseconds, others in hundreds.  A hypervisor
moves the CPUs of its guest from one second to the next, and says nothing of it; what two threads
compute together may then take half as long again, each library in its own measure.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Sequence
from types import TracebackType

WORDS, TRIES = 400, 5  # there and back, in each of a few tries: the least counts
LOOKS = 1_000_000  # for a word, before it is given up: a fraction of a second
ASKED, ANSWERED = 0, 1024  # where the words lie, in lines of their own


class Distance:
    """Measures whenever it is asked, with a process of its own on the other CPU.

    A context manager; the process is forked, so begin before threads are started.

    Parameters
    ----------
    cpus : sequence of int
        CPUs that this process may use: the first and the last are meant.
    """

    def __init__(self, cpus: Sequence[int]) -> None:
        self._here, self._there = cpus[0], cpus[-1]
        self._child: int | None = None

    def __enter__(self) -> Distance:
        """Start the process, if there is another CPU and the system lets us choose."""
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
        """End the process."""
        if self._child is None:
            return
        os.close(self._ask)
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._memory.close()
        self._child = None

    def seconds(self) -> float | None:
        """Least time there and back, the interpreter's included; None if it cannot be told."""
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
    """One try.  A word differs from the one before, the last of an earlier try included."""
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
    """What the other process does until it is ended; it never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other decides
        os.sched_setaffinity(0, {cpu})
        seen = 0
        while os.read(asked, 1):
            for _ in range(TRIES * WORDS):
                for _ in range(LOOKS):
                    if (word := memory[ASKED]) != seen:
                        break
                else:
                    break  # who asked has given up, or is gone
                memory[ANSWERED] = seen = word
    finally:
        os._exit(0)
