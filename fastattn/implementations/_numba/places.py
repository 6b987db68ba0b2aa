"""Where helper threads wake: not on the CPU of the thread that wakes them.

A system may queue a helper behind the thread that wakes it although another CPU is idle: a guest
of a hypervisor mistakes a CPU that sleeps for one that it has lost.  The two threads then take
turns, for many calls.  So helpers are kept off the CPU of the thread that shares its work with
them, until that thread waits for them.

Non-goals: binding threads, considering other processes, anything but Linux.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

__all__ = ["Place", "current_cpu"]


def _system() -> Callable[[], int] | None:
    """Function that returns the CPU of the calling thread; None if the system has none."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.PyDLL(None).sched_getcpu  # PyDLL keeps Python's lock for so short a call
    except (AttributeError, OSError):
        return None


current_cpu = _system()


class Place:
    """Where one helper may run; its methods are called under one lock."""

    __slots__ = ("_allowed", "_kept_off", "_left", "_thread")

    def __init__(self) -> None:
        self._thread = 0  # as the system numbers it; 0 before it has run
        self._kept_off: int | None = None
        self._allowed: set[int] = set()  # its CPUs before it was kept off one of them
        self._left: set[int] = set()  # and those left to it since

    def begin(self) -> None:
        """Make the calling thread the helper of this place.

        It was given the CPUs of the thread that made it, which may be bound to a few of the
        process's.  That limit is for that thread's call alone, so the helper gets them all.
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
        """Keep the helper off `cpu` if it may use another; costs nothing if that is so already."""
        if cpu == self._kept_off or not self._thread:
            return
        try:
            now = os.sched_getaffinity(self._thread)
            if self._kept_off is None or now != self._left:  # somebody else has changed them
                self._allowed = now
            self._left = self._allowed - {cpu}
            if self._left:
                os.sched_setaffinity(self._thread, self._left)
                self._kept_off = cpu
        except OSError:  # forbidden, or the CPUs that the process may use have changed meanwhile
            pass

    def release(self) -> None:
        """Let the helper use all of its CPUs again."""
        if self._kept_off is None:
            return
        self._kept_off = None
        try:
            if os.sched_getaffinity(self._thread) == self._left:
                os.sched_setaffinity(self._thread, self._allowed)
        except OSError:
            pass
