"""Helper threads of the Numba implementation.

Purpose: run one function on several threads at once, the caller's among them.
Non-goals: who does what.  The function itself takes work from a shared counter, so that a
thread which comes late finds nothing left, and nobody waits for it.

Numba's own threading layers are not used: the one that is always there (workqueue) ends
the process if two threads enter it, and a thread mask set by the caller would bind us.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from fastattn.implementations._numba.places import Place, current_cpu

__all__ = ["run_on_threads"]


class _Job:
    """One function, to be run with the numbers 0, 1, ..., once each."""

    __slots__ = ("_closed", "_done", "_function", "_lock", "_running", "error")

    def __init__(self, function: Callable[[int], object]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._running = 0
        self._closed = False
        self.error: BaseException | None = None

    def help(self, worker: int) -> None:
        """A helper thread's part; nothing once the job is closed."""
        with self._lock:
            if self._closed:
                return
            self._running += 1
        try:
            self._function(worker)
        except BaseException as error:  # to be raised in the caller's thread
            self.error = error
        finally:
            with self._lock:
                self._running -= 1
                if self._closed and not self._running:
                    self._done.set()

    def close(self) -> bool:
        """Admit no more helpers; return whether some are at work."""
        with self._lock:
            self._closed = True
            return self._running > 0

    def wait(self, first: Callable[[], None]) -> None:
        """Once the job is closed: call `first`, then wait for the helpers that are at work.

        An interrupt (Ctrl-C) is raised only after they have finished, since they write
        into arrays of the caller.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                first()
                self._done.wait()
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


class _Pool:
    """Threads that wait for jobs: as many as any job has asked for, if they can be had."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[_Job, int]] = SimpleQueue()
        self._lock = threading.Lock()
        self._places: list[Place] = []  # one for each thread

    def submit(self, job: _Job, helpers: int) -> None:
        with self._lock:
            while len(self._places) < helpers:
                name, place = f"fastattn-{len(self._places)}", Place()
                thread = threading.Thread(target=self._work, args=(place,), name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads can be had: those that are there will do
                    break
                self._places.append(place)
            if current_cpu is not None:
                cpu = current_cpu()
                for place in self._places:
                    place.keep_off(cpu)
            helpers = min(helpers, len(self._places))
        for worker in range(1, helpers + 1):
            self._queue.put((job, worker))

    def end(self, job: _Job, wait: bool = True) -> None:
        """Admit no more helpers to a job, and wait for those that are at work."""
        if job.close() and wait:
            job.wait(self._let_go)

    def _let_go(self) -> None:
        """The caller is about to wait: its CPU is free for helpers."""
        with self._lock:
            for place in self._places:
                place.release()

    def _work(self, place: Place) -> None:
        with self._lock:
            place.begin()
        while True:
            job, worker = self._queue.get()
            job.help(worker)
            del job  # its function keeps the caller's arrays alive


_pool = _Pool()


def _renew() -> None:
    """A forked child has the pool's memory, but none of its threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def run_on_threads(function: Callable[[int], object], threads: int) -> None:
    """Run ``function(worker)`` on up to `threads` threads, with `worker` 0 on this one.

    Returns when every worker that has begun is finished, or as soon as ``function(0)`` returns a
    true value, which says that all work is done.  A worker that comes too late is left out, or
    finds nothing to do, so the function must do all the work itself if it runs alone.
    """
    job = _Job(function)
    try:
        _pool.submit(job, threads - 1)
        finished = bool(function(0))
    except BaseException:
        _pool.end(job)
        raise
    _pool.end(job, wait=not finished)
    if job.error is not None:
        raise job.error
