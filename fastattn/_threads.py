"""How many threads a call gets, and how they share its work: decided here and nowhere else.

An implementation asks `wanted_threads` first, lays out its blocks for that many, and passes the
number of work items to `used_threads`, whose answer is what `explain` shows and what runs.  Wisdom
and the tuner choose within `thread_limit`.

Only the driver of the ``cython`` implementation (``src_cpp/driver.cpp``) may then use fewer: it
counts the threads of all calls in progress in this process, which nobody knows before the call.
"""

from __future__ import annotations

from fastattn._config import MOST_THREADS
from fastattn._env import forced_threading, forced_threads
from fastattn._errors import UnavailableError
from fastattn._machine import native, usable_cpus

__all__ = [
    "host_threading",
    "thread_limit",
    "threading_backend",
    "used_threads",
    "wanted_threads",
]


def thread_limit() -> tuple[int, str]:
    """Most threads that are chosen where `Config.threads` is not given, and what limits them.

    ``FASTATTN_NUM_THREADS`` as it is, if it is set; else the CPUs that affinity and cgroup leave
    to the process.
    """
    forced = forced_threads()
    if forced is not None:
        return forced, "FASTATTN_NUM_THREADS"
    return min(usable_cpus(), MOST_THREADS), "usable CPUs"


def wanted_threads(
    explicit: int | None, multiply_adds: int, multiply_adds_per_thread: int
) -> tuple[int, str]:
    """Threads that blocks are laid out for, and why.

    `explicit`, which is `Config.threads`, and ``FASTATTN_NUM_THREADS`` are taken as they are; else
    each usable CPU gets a thread, as far as each thread gets `multiply_adds_per_thread`.
    """
    if explicit is not None:
        return explicit, "Config.threads"
    limit, reason = thread_limit()
    worthwhile = max(1, multiply_adds // multiply_adds_per_thread)
    if worthwhile < limit and forced_threads() is None:
        return worthwhile, f"the work pays for {worthwhile} of {limit} usable CPUs"
    return limit, reason


def used_threads(wanted: int, reason: str, work_items: int) -> tuple[int, str]:
    """Threads of a call with so many work items: no more than one for each; and why."""
    if work_items < wanted:
        used = max(1, work_items)
        return used, f"no more than work items; {wanted} wanted: {reason}"
    return wanted, reason


def threading_backend() -> tuple[str, str]:
    """How threads of the compiled extension share work, ``"pool"`` or ``"openmp"``, and why.

    In a forked child it is the pool, whatever was asked for: the threads of an OpenMP runtime
    stay with the parent.  UnavailableError if ``FASTATTN_THREADING`` asks for OpenMP, which this
    build lacks.
    """
    name = forced_threading()
    if name is None:
        return "pool", "the default"
    binding, _ = native()
    if name == "openmp" and binding is not None and not binding.OPENMP:
        raise UnavailableError(
            "FASTATTN_THREADING",
            repr(name),
            "'pool': the compiler that built the extension had no OpenMP",
            "unset it, or rebuild with a compiler that takes -fopenmp",
        )
    return name, "FASTATTN_THREADING"


def host_threading() -> str | None:
    """``"host"``, for the calls of an adapter that has named its library's OpenMP runtime.

    That library's threads spin for a while after each of its own operations; threads of ours would
    compete with them for the CPUs.  None if ``FASTATTN_THREADING`` decides.
    """
    return "host" if forced_threading() is None else None
