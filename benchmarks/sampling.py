"""Interleaved sampling: one sample of each implementation in turn, in fresh processes.

    round       one fresh process for each case: the unit of the statistics
    repetition  one turn of each implementation, in randomised balanced order
    block       the calls of one turn; a sample is a block's mean time per call

Slow changes of the machine (frequency, neighbours) affect all implementations alike and
cancel in the ratios of one repetition.  What a process fixes at its start (addresses,
layout) does not cancel; hence the rounds.

A sample covers the public call and nothing else: inputs, compilation, the check
against the oracle and the choice of the block's length come before.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import math
import random
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import common, conditions, oracle
from benchmarks.child import ask
from benchmarks.common import Case, Profile

WARM_UP_SECONDS = 0.02
LEAST_REPETITIONS = 3
ROUND_TIMEOUT_SECONDS = 300.0


@dataclass(slots=True)
class Cell:
    """What was measured of one implementation in one case: one value per round.

    Attributes
    ----------
    time : list of float
        Median of the samples, in seconds.
    time_over_numpy, speedup : list of float
        Median of a repetition's ratio to the numpy implementation, and its inverse.
    variation : list of float
        Coefficient of variation: standard deviation of the samples over their mean.
    error : list of float
        Maximum error against the oracle, over the naive one.
    time_over_peak, time_over_unmasked : list of float
        Median of a repetition's ratio to the roofline, and to the same call without a mask
        (`roofline.measure` only).
    time_over_baseline : list of float
        Least of the samples over the least of those of like work by NumPy (`baselines.measure`
        only).
    skipped, failed : str or None
        Why there are no values.
    """

    time: list[float] = field(default_factory=list)
    time_over_numpy: list[float] = field(default_factory=list)
    speedup: list[float] = field(default_factory=list)
    variation: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    time_over_peak: list[float] = field(default_factory=list)
    time_over_unmasked: list[float] = field(default_factory=list)
    time_over_baseline: list[float] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None


Cells = dict[tuple[Any, str], Cell]  # by the key of a case, and implementation


def balanced_orders(names: Sequence[str], rng: random.Random) -> Iterator[list[str]]:
    """Endless random orders of takers: in each ``len(names)``, every name has every place once."""
    while True:
        base = rng.sample(list(names), len(names))
        for shift in rng.sample(range(len(names)), len(names)):
            yield base[shift:] + base[:shift]


def block_seconds(call: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    """Mean seconds of one call in a block of `calls`."""
    repeated = itertools.repeat(None, calls)
    start = clock()
    for _ in repeated:
        call()
    return (clock() - start) / calls


def calls_per_block(call: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> int:
    """Number of calls that last `seconds`, at least one; warms up on the way."""
    calls, end = 1, clock() + WARM_UP_SECONDS
    while True:
        each = block_seconds(call, calls, clock)
        if clock() >= end and (calls > 1 or each >= seconds):
            return max(1, math.ceil(seconds / each))
        calls = min(2 * calls, max(1, math.ceil(seconds / max(each, 1e-9))))


def repetitions(
    takers: Mapping[str, Callable[[], float]],
    seed: int = 0,
    around: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Iterator[dict[str, float]]:
    """Take turns endlessly; each repetition has one sample for every name.

    Parameters
    ----------
    takers : mapping
        Each takes its turn and returns the sample.
    around : callable
        Gives the context in which a turn runs; entering and leaving it are not timed.
    """
    for order in balanced_orders(tuple(takers), random.Random(seed)):
        samples = {}
        for name in order:
            with around(name):
                samples[name] = takers[name]()
        yield samples


def blocks(
    calls: Mapping[str, Callable[[], Any]],
    numbers: Mapping[str, int],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Callable[[], float]]:
    """Turns of ``numbers[name]`` calls each; a sample is the mean time of a call."""
    return {
        name: functools.partial(block_seconds, call, numbers[name], clock)
        for name, call in calls.items()
    }


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of what is timed."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def take_samples(
    calls: Mapping[str, Callable[[], Any]],
    profile: Profile,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
    probes: Mapping[str, Callable[[], float]] | None = None,
    around: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> dict[str, list[float]]:
    """Sample calls in turn; sample i of every name belongs to repetition i.

    `probes` take turns with the calls; what they return are their samples.  `around` is as in
    `repetitions`.
    """
    if not calls:
        return {}
    numbers = {
        name: calls_per_block(call, profile.block_seconds, clock) for name, call in calls.items()
    }
    takers = blocks(calls, numbers, clock) | dict(probes or {})
    samples: dict[str, list[float]] = {name: [] for name in takers}
    monitor = conditions.Monitor()
    with no_collection():
        end = clock() + profile.budget_seconds
        taken = itertools.islice(repetitions(takers, seed, around), profile.repetitions)
        for done, repetition in enumerate(taken, start=1):
            for name, sample in repetition.items():
                samples[name].append(sample)
            # Orders are balanced only in whole squares of `len(takers)` repetitions.
            if done >= LEAST_REPETITIONS and done % len(takers) == 0 and clock() >= end:
                break
    if around is nullcontext:  # otherwise waiting between turns would look like time lost
        conditions.record(monitor.stop())
    return samples


def measure(
    cases: Mapping[Any, Case],
    impls: Sequence[str],
    profile: Profile,
    module: str = "benchmarks.sampling",
    threads: int = common.THREADS,
) -> Cells:
    """Measure every case in every implementation; keys are (key of the case, impl).

    The function `child` of `module` answers for a round.
    """
    cells = {(key, impl): Cell() for key in cases for impl in impls}
    shared = {"impls": impls, "profile": asdict(profile), "threads": threads}
    for number in range(profile.rounds):
        for key, case in cases.items():
            label = ", ".join(map(str, key if isinstance(key, tuple) else (key,)))
            common.progress(f"round {number + 1} of {profile.rounds}: {label}")
            request = {"case": asdict(case), "seed": number} | shared
            names = {conditions.CASE_VARIABLE: label}
            try:
                answer = ask(module, request, ROUND_TIMEOUT_SECONDS, names)
            except RuntimeError as error:
                answer = {impl: {"failed": str(error)} for impl in impls}
            for impl, values in answer.items():
                _add(cells[key, impl], values)
    return cells


def track(cell: Cell, quantity: str) -> float | dict[str, Any]:
    """Value of a tracked benchmark, or the samples from which asv takes the statistics.

    Raises
    ------
    SkipNotImplemented
        The combination cannot run; asv stores NaN.
    RuntimeError
        It ran and failed; asv reports the benchmark as failed.
    """
    if cell.failed is not None:
        raise RuntimeError(cell.failed)
    if cell.skipped is not None:
        raise common.skip(cell.skipped)
    samples = getattr(cell, quantity)
    if not samples:
        raise common.skip(f"there is nothing to take {quantity} from")
    # asv 0.6 treats this like the samples of a timing: median, quartiles, interval.
    return {"samples": samples, "number": 1}


def _add(cell: Cell, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name in ("skipped", "failed"):
            setattr(cell, name, value)
        elif value is not None:
            getattr(cell, name).append(value)


def child(request_json: str) -> None:
    """Answer one request of `measure` on standard output."""
    request = json.loads(request_json)
    case, profile = Case(**request["case"]), Profile(**request["profile"])
    calls, answer = checked(case, request["impls"], request["threads"])
    samples = take_samples(calls, profile, seed=request["seed"])
    for impl in calls:
        answer[impl] |= summary(samples[impl], samples.get("numpy"))
    print(json.dumps(answer))


def checked(
    case: Case, impls: Sequence[str], threads: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, dict[str, Any]]]:
    """Calls that agree with the oracle, by implementation, and what there is to say about each."""
    answer: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for impl in impls:
        reason = common.missing(case, impl)
        if reason is not None:
            answer[impl] = {"skipped": reason}
            continue
        try:
            call = common.bind(case, impl, threads)
            answer[impl] = {"error": oracle.relative_error(case, *common.inputs(case), call())}
        except Exception:
            answer[impl] = {"failed": traceback.format_exc()}
        else:
            calls[impl] = call
    return calls, answer


def ratio(samples: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios within a repetition."""
    return statistics.median(s / o for s, o in zip(samples, others, strict=True))


def summary(samples: Sequence[float], baseline: Sequence[float] | None) -> dict[str, float]:
    """Summarise the samples of one process; `baseline` are the numpy implementation's."""
    values = {
        "time": statistics.median(samples),
        "variation": statistics.stdev(samples) / statistics.mean(samples),
    }
    if baseline is not None:
        over = ratio(samples, baseline)
        values |= {"time_over_numpy": over, "speedup": 1 / over}
    return values
