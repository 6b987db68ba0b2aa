"""Two ways of sharing a call's work between threads: the pool of fastattn, and OpenMP.

Each way has processes of its own, in turn with the other's, because a process keeps the threads of
the way that it has used.  All of it is measured on a machine as it is, and beside a process that
keeps one of the CPUs busy.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fastattn
from benchmarks import common, conditions, sampling
from benchmarks.child import ask
from benchmarks.common import REGIMES
from perf import system
from perf.summary import Estimate, estimate

VARIABLE = "FASTATTN_THREADING"
BACKENDS = ("pool", "openmp")
IDLE, BUSY = "idle", "busy"
CASES = ("dim-256", "dim-1024", "bert", "prefill-2k", "decode")
BLOCK_SECONDS = 0.03
TIMEOUT_SECONDS = 120.0
_BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"

Seconds = dict[str, dict[str, dict[str, list[float]]]]  # load -> backend -> case -> per process


def measure(
    cases: Sequence[str], rounds: int, seconds: float, tell: Callable[[float, str], None]
) -> dict[str, Any]:
    """Median seconds of a call in each process, or the reason why there are none."""
    cpus = conditions.cpus()
    found: Seconds = {
        load: {backend: {case: [] for case in cases} for backend in BACKENDS}
        for load in (IDLE, BUSY)
    }
    if len(cpus) < 2 or not hasattr(os, "sched_setaffinity"):
        return {"reason": "it takes two CPUs"}
    steps = [(n, load) for n in range(rounds) for load in (IDLE, BUSY)]
    for done, (number, load) in enumerate(steps):
        tell(done / len(steps), f"threading, {load}, process {number + 1} of {rounds}")
        with busy(cpus[-1]) if load == BUSY else contextlib.nullcontext():
            for backend in BACKENDS if number % 2 else reversed(BACKENDS):
                request = {"cases": list(cases), "threads": len(cpus), "seconds": seconds}
                environment = system.environment(len(cpus)) | {VARIABLE: backend}
                try:
                    answer = ask("perf.study.sharing", request, TIMEOUT_SECONDS, environment)
                except RuntimeError as error:
                    return {"reason": str(error).strip().splitlines()[-1]}
                for case, value in answer.items():
                    found[load][backend][case].append(value)
    return {"seconds": found}


@contextlib.contextmanager
def busy(cpu: int) -> Iterator[None]:
    """Keep one CPU busy by another process."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY, str(cpu)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def child(request_json: str) -> None:
    """Answer one request of `measure` on standard output."""
    request = json.loads(request_json)
    config = fastattn.Config(threads=request["threads"])
    found = {}
    for name in request["cases"]:
        arrays = common.inputs(REGIMES[name])
        call = functools.partial(
            fastattn.attention, *arrays, causal=REGIMES[name].causal, impl="cython", config=config
        )
        calls = sampling.calls_per_block(call, BLOCK_SECONDS, time.perf_counter)
        samples, end = list[float](), time.perf_counter() + request["seconds"]
        while len(samples) < sampling.LEAST_REPETITIONS or time.perf_counter() < end:
            samples.append(sampling.block_seconds(call, calls, time.perf_counter))
        found[name] = statistics.median(samples)
    print(json.dumps(found))


def ratio(
    seconds: Mapping[str, Any], case: str, above: tuple[str, str], below: tuple[str, str]
) -> Estimate | None:
    """Time of one (load, backend) over another's: median over the processes, paired in order."""
    upper, lower = (seconds[load][backend].get(case, []) for load, backend in (above, below))
    return estimate([a / b for a, b in zip(upper, lower, strict=False)])
