"""One process: agreement with the oracle, then turns of the implementations.

Each implementation has the whole machine: NumPy has as many BLAS threads as CPUs, as the
environment says; Numba chooses among the CPUs; ``cython`` has the configuration that was found.
"""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from benchmarks import common, conditions, oracle, sampling
from benchmarks.common import IMPLS
from perf.distance import Distance
from perf.peers import timing
from perf.study.record import Round

REPETITIONS = 60  # at most
# Long enough for what interrupts a CPU for some milliseconds, now and then, to average out.
TURN_SECONDS = 0.1
DISTANCE = "distance"  # its name among those that take turns
FAR = 1.0  # seconds: stands for a distance that could not be measured this time


def take(
    dim: int,
    dtype: str,
    config: dict[str, Any],
    seconds: float,
    seed: int,
    distance: Callable[[], float | None] = lambda: None,
) -> Round:
    """One round of a dim: q, k and v are dim x dim.

    Parameters
    ----------
    config : dict
        Fields of the `fastattn.Config` of ``cython``.
    seconds : float
        Time after which no repetition begins.
    seed : int
        Seed for the order of turns.
    distance : callable
        Tells how far apart the CPUs are; it takes turns with the others.
    """
    import fastattn

    case = common.dim_case(dim, dtype)
    arrays = common.inputs(case)
    found = Round()
    calls: dict[str, Callable[[], Any]] = {}
    for impl in IMPLS:
        reason = common.missing(case, impl)
        if reason is not None:
            found.reasons[impl] = reason
            continue
        settings = fastattn.Config(**config) if impl == "cython" else None
        call = functools.partial(fastattn.attention, *arrays, impl=impl, config=settings)
        try:
            found.errors[impl] = oracle.relative_error(case, *arrays, call())
        except Exception as error:
            found.failures[impl] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        else:
            calls[impl] = call

    @contextmanager
    def around(name: str) -> Iterator[None]:
        timing.settle()  # the previous call's threads spin on, and would take this one's CPUs
        if name in calls:
            timing.wake(calls[name])
        yield

    profile = replace(
        common.profile(),
        block_seconds=TURN_SECONDS,
        budget_seconds=seconds,
        repetitions=REPETITIONS,
    )
    others = timing.Others()
    probes = {} if distance() is None else {DISTANCE: lambda: distance() or FAR}
    found.samples = sampling.take_turns(calls, profile, seed=seed, probes=probes, around=around)
    found.distances = found.samples.pop(DISTANCE, [])
    found.others, found.stolen = others.share(), others.stolen()
    return found


def child(request_json: str) -> None:
    """Answer one request on standard output."""
    with Distance(conditions.cpus()) as distance:
        found = take(**json.loads(request_json), distance=distance.seconds)
    print(json.dumps(asdict(found)))
