"""A process of one side: it prepares a cell when asked, and takes turns when asked.

It reads orders and writes answers, one line of JSON each, and knows nothing about the other side.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import common, conditions, oracle, sampling
from benchmarks.common import Case
from perf.answering import one_line, own_output
from perf.paired.rule import Sample


class Worker:
    """The cell in hand, and what can be done with it."""

    def __init__(self, delay: float | None = None) -> None:
        self._delay = delay
        self._call: Callable[[], Any] | None = None
        self._clock = time.perf_counter
        self._cpus = conditions.cpus()

    def facts(self) -> dict[str, Any]:
        """Conditions of this process."""
        return conditions.facts()

    def bind(self, case: dict[str, Any], impl: str, threads: int, check: bool) -> dict[str, Any]:
        """Prepare a cell and, if asked, check its result against the oracle.

        In the answer, "cannot" or "wrong" says why there is nothing to time.
        """
        self._call = None
        common.inputs.cache_clear()
        gc.collect()
        try:
            it = Case(**case)
            reason = common.missing(it, impl)
            if reason is not None:
                return {"cannot": reason}
            call = common.bind(it, impl, threads)
            result = call()
        except Exception as error:
            return {"cannot": one_line(error)}
        found: dict[str, Any] = {}
        if check:
            try:
                found["error"] = oracle.relative_error(it, *common.inputs(it), result)
            except Exception as error:  # a result of another shape is wrong, too
                return {"wrong": one_line(error)}
        # On one thread, the process's CPU time leaves out what others take of the CPU.
        self._clock = time.process_time if threads == 1 else time.perf_counter
        self._call = call if self._delay is None else delayed(call, self._delay, self._clock)
        return found

    def rate(self, seconds: float) -> dict[str, Any]:
        """Number of calls that last `seconds`; warms up on the way."""
        assert self._call is not None
        return {"calls": sampling.calls_per_block(self._call, seconds, self._clock)}

    def sample(self, calls: int) -> dict[str, Any]:
        """Time a turn of `calls` calls."""
        assert self._call is not None
        ticks = conditions.steal_ticks(self._cpus)
        before = self._counters()
        seconds = sampling.block_seconds(self._call, calls, self._clock)
        wall, running, switches = (b - a for a, b in zip(before, self._counters(), strict=True))
        ticks = conditions.steal_ticks(self._cpus) - ticks
        lost = max(0.0, wall - running)
        by_wall = self._clock is time.perf_counter
        return asdict(Sample(seconds, wall, lost, int(switches), ticks, by_wall))

    @staticmethod
    def _counters() -> tuple[float, float, int]:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return time.perf_counter(), time.process_time(), switches


def delayed(call: Callable[[], Any], share: float, clock: Callable[[], float]) -> Callable[[], Any]:
    """A call that is followed by busy waiting for a share of its duration.

    With a share of 0 it costs as much as a delayed one, apart from the delay.
    """

    def slower() -> Any:
        start = clock()
        result = call()
        now = clock()
        end = now + share * (now - start)
        while now < end:
            now = clock()
        return result

    return slower


def child(request_json: str) -> None:
    """Serve until the orders end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides
    request = json.loads(request_json)
    output = own_output()
    if request["cpus"] is not None:
        os.sched_setaffinity(0, request["cpus"])
    where = Path(importlib.import_module("fastattn").__file__ or "").resolve()
    if not where.is_relative_to(Path(request["path"]).resolve()):
        raise RuntimeError(f"fastattn comes from {where}, not from {request['path']}")
    gc.disable()
    worker = Worker(request["delay"])
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(worker, order.pop("do"))(**order)
        print(json.dumps(answer), file=output, flush=True)
