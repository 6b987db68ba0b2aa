"""The process that measures repetitions for `record`, and reports them on standard output.

It reports ``seconds``, ``spent`` and ``failures`` after each repetition; now and then ``part``, the
share of a repetition that is done; and at the end ``load``, what else the CPUs did.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastattn._shapes import spec_of
from fastattn._spec import CallSpec
from fastattn.tuner.measure import Live, TrialError
from fastattn.tuner.space import SPACES, Point, Space, default_point
from fastattn.tuner.system import SystemMonitor
from perf.tuner_replay.workloads import WORKLOADS, Workload

__all__ = ["Request", "child", "measure", "problem"]

_TELL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """Repetitions that one process is to measure.

    Attributes
    ----------
    name : str
        Name of the workload.
    process : int
        Number of the process, which is the seed of inputs and rng.
    repetitions : int
    seconds : float or None
        A repetition that would not end within this time is not begun, but for the first one.
    """

    name: str
    process: int
    repetitions: int
    seconds: float | None


def problem(name: str) -> tuple[Workload, CallSpec, Space, Point]:
    """Workload of that name, its spec, its space here, and the default in it."""
    workload = WORKLOADS[name]
    case = workload.case
    spec = spec_of(workload.shape, case.dtype, causal=case.causal)
    space = SPACES[workload.space](spec)
    return workload, spec, space, default_point(space, spec)


def measure(request: Request, tell: Callable[[dict[str, Any]], None]) -> None:
    """Measure repetitions, and report each when it is complete."""
    begin = time.monotonic()
    _, spec, space, _ = problem(request.name)
    source = Live(space, spec, request.process)
    rng = random.Random(request.process)
    source.warm_up()
    monitor = SystemMonitor()
    each = 0.0
    for number in range(request.repetitions):
        now = time.monotonic()
        if number and request.seconds is not None and now + each > begin + request.seconds:
            break
        tell(_repetition(space, source, rng, tell))
        each = time.monotonic() - now
    tell({"load": asdict(monitor.load())})


def _repetition(
    space: Space, source: Live, rng: random.Random, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """One sample of every point, in random order."""
    seconds: list[float | None] = [None] * len(space)
    spent, failures = [0.0] * len(space), {}
    reported = time.monotonic()
    source.start_repetition()
    for done, at in enumerate(rng.sample(range(len(space)), len(space))):
        before = source.spent_seconds
        try:
            seconds[at] = source.sample(space.points[at])
        except TrialError as error:
            failures[at] = str(error)
        spent[at] = source.spent_seconds - before
        if time.monotonic() > reported + _TELL_SECONDS:
            reported = time.monotonic()
            tell({"part": done / len(space)})
    return {"seconds": seconds, "spent": spent, "failures": failures}


def child(request_json: str) -> None:
    """Answer one request on standard output."""
    try:
        measure(
            Request(**json.loads(request_json)),
            lambda found: print(json.dumps(found), flush=True),
        )
    except KeyboardInterrupt:
        sys.exit(130)
