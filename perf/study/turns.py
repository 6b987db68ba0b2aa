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

from benchmarks import common, oracle, sampling
from benchmarks.common import IMPLS
from perf import system
from perf.study.data import Round

REPETITIONS = 60  # at most
# Long enough for what interrupts a CPU for some milliseconds, now and then, to average out.
BLOCK_SECONDS = 0.1


def take(
    dim: int,
    dtype: str,
    config: dict[str, Any],
    seconds: float,
    seed: int,
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
        system.settle()  # the previous call's threads spin on, and would take this one's CPUs
        if name in calls:
            system.wake(calls[name])
        yield

    profile = replace(
        common.profile(),
        block_seconds=BLOCK_SECONDS,
        budget_seconds=seconds,
        repetitions=REPETITIONS,
    )
    others = system.Others()
    found.samples = sampling.take_samples(calls, profile, seed=seed, around=around)
    found.others, found.stolen = others.share(), others.stolen()
    return found


def child(request_json: str) -> None:
    """Answer one request on standard output."""
    print(json.dumps(asdict(take(**json.loads(request_json)))))
