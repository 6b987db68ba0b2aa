"""What the tuner is worth: a search, and its winner measured again.

    search      in a fresh process: the genetic tuner on the study's space; then all points of
                the space take turns, and the winner's time over the best's gives its regret
    afresh      in another process: the winner in turns with the default

Only public calls are used, and what `fastattn.tune` returns.  Turns are those of `sampling`, but
in a turn of several calls the first one, in which threads start or stop, is not timed.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import common, oracle, sampling
from benchmarks.child import ask
from benchmarks.common import Profile

SPACE, STRATEGY, BUDGET = "study", "genetic", 18
BLOCKS, THREADS = (8, 16, 32, 64), (1, 2, 4, 8)  # with the data types, the space's points
TIMEOUT_SECONDS = 300.0
MODULE = "benchmarks.tuned"

Values = dict[str, Any]  # block, threads, dtype


def measure(dims: Sequence[int], profile: Profile) -> dict[int, dict[str, Any]]:
    """What was found, by dim; or ``skipped`` or ``failed``, and why."""
    if (reason := _missing()) is not None:
        return {dim: {"skipped": reason} for dim in dims}
    found: dict[int, dict[str, Any]] = {}
    for dim in dims:
        common.progress(f"tuning dim {dim}")
        request = {"dim": dim, "profile": asdict(profile)}
        try:
            found[dim] = ask(MODULE, request | {"what": "search"}, TIMEOUT_SECONDS)
            points = {name: found[dim][name] for name in ("winner", "default")}
            again = request | {"what": "afresh"} | points
            found[dim] |= ask(MODULE, again, TIMEOUT_SECONDS)
        except RuntimeError as error:
            found[dim] = {"failed": str(error)}
    return found


def child(request_json: str) -> None:
    """Answer one request of `measure` on standard output."""
    request = json.loads(request_json)
    _use_all_cpus()
    profile = Profile(**request["profile"])
    if request["what"] == "search":
        answer = searched(request["dim"], profile)
    else:
        answer = afresh(request["dim"], request["winner"], request["default"], profile)
    print(json.dumps(answer))


def searched(dim: int, profile: Profile) -> dict[str, Any]:
    """Tune, and compare the winner with every point."""
    import fastattn

    result = fastattn.tune(
        (1, 1, 1, dim, dim, dim),
        space=SPACE,
        strategy=STRATEGY,
        budget=BUDGET,
        seed=0,
        remember=False,
    )
    winner = {
        "block": result.config.block_k,
        "threads": result.config.threads,
        "dtype": result.dtype,
    }
    usable = fastattn.machine().usable_cpus
    default = {
        "block": 64,
        "threads": max(count for count in THREADS if count <= usable),
        "dtype": "float32",
    }
    everything = [
        {"block": block, "threads": count, "dtype": dtype}
        for block, count, dtype in itertools.product(BLOCKS, THREADS, common.WIDE)
    ]
    ratios = over(dim, everything, winner, profile)
    return {
        "winner": winner,
        "default": default,
        "evaluations": result.evaluations,
        "tuning_time": result.tuning_seconds,
        "time_over_best": 1 / min(ratios),
    }


def afresh(dim: int, winner: Values, default: Values, profile: Profile) -> dict[str, Any]:
    """Compare the winner with the default."""
    if winner == default:
        return {"time_over_default": 1.0}
    (ratio,) = over(dim, [winner], default, profile)
    return {"time_over_default": ratio}


def over(
    dim: int,
    points: Sequence[Values],
    baseline: Values,
    profile: Profile,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Each point's time over the baseline's: median of the ratios within a repetition."""
    calls = {_name(point): bound(dim, point) for point in (*points, baseline)}
    numbers = {
        name: sampling.calls_per_block(call, profile.block_seconds, clock)
        for name, call in calls.items()
    }
    blocks = {
        name: functools.partial(_block, call, numbers[name], clock) for name, call in calls.items()
    }
    taken: list[dict[str, float]] = []
    with sampling.no_collection():
        end = clock() + profile.budget_seconds
        for row in itertools.islice(sampling.repetitions(blocks), profile.repetitions):
            taken.append(row)
            if len(taken) >= sampling.LEAST_REPETITIONS and clock() >= end:
                break
    base = _name(baseline)
    return [statistics.median(row[_name(point)] / row[base] for row in taken) for point in points]


def bound(dim: int, point: Values) -> Callable[[], Any]:
    """The call of a point, after its result agreed with the oracle."""
    case = common.dim_case(dim, point["dtype"])
    call = common.bind(case, "cython", point["threads"], block_k=point["block"])
    oracle.relative_error(case, *common.inputs(case), call())
    return call


def track(found: Mapping[str, Any], *path: str) -> Any:
    """Value of a tracked benchmark; `path` names it from the outside in.

    Raises
    ------
    SkipNotImplemented
        There is no tuner, or no kernel.
    RuntimeError
        The measurement failed.
    """
    if "failed" in found:
        raise RuntimeError(found["failed"])
    if "skipped" in found:
        raise common.skip(found["skipped"])
    return functools.reduce(operator.getitem, path, found)


def _block(call: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    if calls > 1:
        call()
    return sampling.block_seconds(call, calls, clock)


def _name(point: Values) -> str:
    return json.dumps(point, sort_keys=True)


def _missing() -> str | None:
    import fastattn

    if not hasattr(fastattn, "tune"):
        return "this version has no tuner"
    return common.missing(common.dim_case(64, "float32"), "cython")


def _use_all_cpus() -> None:
    """Use the CPUs of `run`: asv pins benchmarks to one, but threads are what is tuned."""
    cpus = os.environ.get(common.CPUS_VARIABLE)
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cpus.split(",")))
