"""Where helper threads wake: not on the CPU of the thread that wakes them.

A system may put a helper behind the thread that wakes it, though another CPU is idle: a guest of
a hypervisor takes a CPU that sleeps for one that it has lost.  The two then take turns, for many
calls.  So helpers are kept off the CPU of the thread that shares its work with them, until that
thread waits for them.

Non-goals: to bind threads, to know of other processes, anything but Linux.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

__all__ = ["Place", "current_cpu"]


def _system() -> Callable[[], int] | None:
    """Tells the CPU of the calling thread; None where the system does not."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.PyDLL(None).sched_getcpu  # PyDLL: Python's lock is kept for so short a call
    except (AttributeError, OSError):
        return None


current_cpu = _system()


class Place:
    """One helper's; its methods are called under one lock."""

    __slots__ = ("_allowed", "_kept_off", "_left", "_thread")

    def __init__(self) -> None:
        self._thread = 0  # as the system numbers it; 0 before it has run
        self._kept_off: int | None = None
        self._allowed: set[int] = set()  # its CPUs before it was kept off one of them
        self._left: set[int] = set()  # and then

    def begin(self) -> None:
        """This thread is the helper.

        It was given the CPUs of the thread that made it, which may be bound to a few of the
        process's: that call alone is to have those.
        """
        self._thread = threading.get_native_id()
        if current_cpu is None:
            return
        try:
            process = os.sched_getaffinity(os.getpid())
            if len(process) > len(os.sched_getaffinity(0)):
                os.sched_setaffinity(0, process)
        except OSError:
            pass

    def keep_off(self, cpu: int) -> None:
        """The helper is not to be put on `cpu`, if it may use another; free of cost if it is so."""
        if cpu == self._kept_off or not self._thread:
            return
        try:
            now = os.sched_getaffinity(self._thread)
            if self._kept_off is None or now != self._left:  # somebody else has changed it
                self._allowed = now
            self._left = self._allowed - {cpu}
            if self._left:
                os.sched_setaffinity(self._thread, self._left)
                self._kept_off = cpu
        except OSError:  # forbidden, or the CPUs that the process may use have changed meanwhile
            pass

    def release(self) -> None:
        """The helper may use all of its CPUs again."""
        if self._kept_off is None:
            return
        self._kept_off = None
        try:
            if os.sched_getaffinity(self._thread) == self._left:
                os.sched_setaffinity(self._thread, self._allowed)
        except OSError:
            pass
