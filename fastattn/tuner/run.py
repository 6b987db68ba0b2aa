"""`tune`: the search for one problem on this machine, and what is remembered of it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from fastattn import _wisdom
from fastattn._errors import ArgumentError, FastattnError, UnavailableError
from fastattn._shapes import spec_of
from fastattn._spec import CallSpec
from fastattn._wisdom.entry import describe
from fastattn.implementations import load
from fastattn.tuner.measure import Live, TrialError
from fastattn.tuner.record import Search
from fastattn.tuner.result import TuningResult, rows_of
from fastattn.tuner.search import Event, search
from fastattn.tuner.select import Standing
from fastattn.tuner.space import SPACES, STUDIED, Point, Space, candidate, default_point, kernel
from fastattn.tuner.strategies import make
from fastattn.tuner.system import SystemLoad, SystemMonitor

__all__ = ["space_of", "tune"]

# A kernel of at most 10 ms is tuned with the budget of 18 within 5 seconds; what `_QUICK_SECONDS`
# leaves of those is for importing Numba.
_QUICK_CALL_SECONDS = 0.010
_QUICK_SECONDS = 4.2
_QUICK_BUDGET = 18
_MAX_CONTENTION = 0.05


def tune(
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    causal: bool = False,
    space: str = "kernel",
    strategy: str = "auto",
    budget: int = 18,
    seed: int = 0,
    impl: str = "auto",
    remember: bool = True,
    seconds: float = 30.0,
    progress: Callable[[Event], None] | None = None,
) -> TuningResult:
    """Find the fastest configuration for a problem on this machine, and remember it.

    Later calls of `attention` for similar problems use the result; `attention` itself never
    tunes.

    Parameters
    ----------
    shape : sequence of int
        (B, Hq, Hkv, Lq, Lk, D) or (B, Hq, Hkv, Lq, Lk, D, Dv): batch entries, query heads, key
        heads, queries, keys, features of a key and, if different, of a value.
    dtype : str, default "float32"
        float32, float64, float16 or bfloat16 (``ml_dtypes``).
    causal : bool, default False
        A causal mask, aligned bottom-right.
    space : {"kernel", "study"}, default "kernel"
        Space of configurations.  "kernel" has every tunable parameter of the implementations.
        "study" has block, threads and data type, as the study that fastattn grew from; its winners
        are not remembered, because the data type is the caller's choice.
    strategy : str, default "auto"
        A name from ``fastattn tune --help``.  "auto" measures every point (configuration) of the
        space if the budget allows it, and otherwise is a genetic algorithm.
    budget : int, default 18
        Number of points to measure, from 1 up; each in 5 samples, unless it is dropped earlier.
    seed : int, default 0
        Seed of the strategy, the inputs and the order of samples, from 0 up.
    impl : str, default "auto"
        Implementation to tune; "auto" for all that can run on this machine.
    remember : bool, default True
        Whether to store the winner for later calls.  It is not stored if other load on the machine
        made the measurements too uncertain.
    seconds : float, default 30
        Time limit in seconds, without compilation.  With the default budget, a search takes at
        most 5 seconds if a call takes at most 10 ms.
    progress : callable, optional
        Called after each sample with an `Event`, which has the state of the search.

    Returns
    -------
    TuningResult
        The winner, its speed-up with uncertainty, and whether it was stored; ``print`` shows it as
        text.

    Raises
    ------
    FastattnError
        An argument is refused, or the default cannot be measured.

    Notes
    -----
    A sample is the lower quartile of the times of some calls of `attention`, with `out` given and
    normally distributed inputs.  Points are compared by the median of paired samples, interleaved
    in random order.  A winner other than the default is faster by more than the tie band (1 to 2 %;
    5 % for calls under 50 microseconds) and by more than the statistical margin.

    Ctrl-C ends the search.  The result so far is returned, but not stored.

    Examples
    --------
    >>> import fastattn
    >>> result = fastattn.tune((1, 2, 2, 32, 32, 16), impl="numpy", remember=False)
    >>> result.impl
    'numpy'
    """
    begin = time.perf_counter()
    spec = spec_of(shape, dtype, causal=causal)
    target = space_of(space, spec, impl)
    _check_numbers(budget, seconds, seed)
    baseline = default_point(target, spec)
    known = _remembered(target, spec, impl) if space == "kernel" else []
    chosen = make(strategy, target, budget, seed, [baseline, *known])
    source = Live(target, spec, seed)
    source.warm_up()
    monitor, ready = SystemMonitor(), time.perf_counter()
    try:
        if source.sample(baseline) <= _QUICK_CALL_SECONDS:
            seconds = min(seconds, _QUICK_SECONDS * max(1.0, budget / _QUICK_BUDGET))
        found = search(
            target,
            source,
            chosen,
            baseline,
            rng=np.random.default_rng(seed),
            remembered=known,
            seconds=None if math.isinf(seconds) else seconds - (time.perf_counter() - ready),
            on_event=progress,
        )
    except TrialError as error:
        raise UnavailableError(
            "impl",
            f"{impl!r}, of which the default fails: {error}",
            "one whose default can be measured",
            "choose another implementation",
        ) from error
    system = monitor.load()
    reasons = _reasons(found, system, space, remember)
    winner, decision = candidate(target, found.winner, spec), found.decision
    standing = found.standing(found.winner) or Standing(1.0, None)
    interval = standing.interval
    result = TuningResult(
        problem=describe(spec),
        space=space,
        strategy=strategy,
        seed=seed,
        budget=budget,
        impl=winner.impl,
        config=winner.config,
        dtype=winner.dtype,
        speedup=1 / standing.ratio,
        speedup_interval=None if interval is None else (1 / interval[1], 1 / interval[0]),
        selection_bound=None if decision is None else decision.selection_bound,
        exploration=(len(found.evaluations), found.points),
        variation=found.variation,
        evaluations=len(found.evaluations),
        tuning_seconds=time.perf_counter() - begin,
        kernel_seconds=source.spent_seconds,
        optimiser_seconds=found.optimiser_seconds,
        preparation_seconds=source.preparation_seconds,
        remembered=None,
        not_remembered="; ".join(reasons) or None,
        load=system,
        search=found,
        rows=rows_of(target, spec, found),
    )
    if reasons:
        return result
    try:
        path = _wisdom.remember(spec, result.impl, result.config, result.to_json(), requested=impl)
    except FastattnError as error:
        return dataclasses.replace(result, not_remembered=str(error))
    return dataclasses.replace(result, remembered=path)


def space_of(name: str, spec: CallSpec, impl: str = "auto") -> Space:
    """The space of that name for a problem.

    FastattnError if there is no such space, `impl` cannot be tuned in it, or there is nothing to
    compute.
    """
    if spec.multiply_adds == 0:
        raise ArgumentError(
            "shape", str(spec), "axes above 0", "there is nothing to compute or to tune"
        )
    if name not in SPACES:
        raise ArgumentError("space", repr(name), f"one of {list(SPACES)}", "correct the name")
    if impl == "auto":
        impls = None
    elif (reason := load(impl).missing()) is not None:
        received = f"{impl!r}, which cannot run here: {reason}"
        raise UnavailableError(
            "impl", received, "one that can", "see `fastattn info`, or write impl='auto'"
        )
    else:
        impls = [impl]
    if name == "kernel":
        return kernel(spec, impls)
    if impl not in ("auto", STUDIED):
        accepted = f"{STUDIED!r} in the space {name!r}"
        raise ArgumentError("impl", repr(impl), accepted, "take the space 'kernel'")
    return SPACES[name](spec)


def _check_numbers(budget: int, seconds: float, seed: int) -> None:
    for name, value, least, default in (("budget", budget, 1, 18), ("seed", seed, 0, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            accepted = f"a whole number from {least} up"
            raise ArgumentError(name, repr(value), accepted, f"the default is {default}")
    if not seconds > 0:
        raise ArgumentError("seconds", repr(seconds), "above 0", "the default is 30")


def _remembered(space: Space, spec: CallSpec, impl: str) -> list[Point]:
    """The space's point nearest to an earlier winner, if there is one."""
    known = _wisdom.lookup(spec, impl)
    if known is None:
        return []
    resolved, _ = load(known.impl).configure(spec, known.config)
    point = space.nearest({"impl": known.impl, **resolved.explicit()})
    return [] if point is None else [point]


def _reasons(found: Search, load: SystemLoad, space: str, remember: bool) -> list[str]:
    """Why the winner is not to be remembered; empty if it is."""
    if not remember:
        return ["not requested"]
    reasons = list(found.warnings)
    if space != "kernel":
        reasons.insert(0, f"winners of the space {space!r} never are")
    if load.contention > _MAX_CONTENTION:
        reasons.append(f"others took {100 * load.contention:.0f} % of the CPUs' time")
    return reasons
