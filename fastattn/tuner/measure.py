"""Samples of a point's time: the interface `Source`, and `Live`, which measures on this machine.

A sample is the lower quartile of some consecutive calls of one point.  The quartile is used
because interference only ever adds to a call's time: on a shared machine the means of samples
differ several times as much.  In a repetition each point gives one sample.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fastattn._api import attention
from fastattn._errors import UnavailableError
from fastattn._optional import import_failure
from fastattn._spec import CallSpec
from fastattn.tuner.check import Expected, find_error, reference_rows
from fastattn.tuner.space import Candidate, Point, Space, candidate
from fastattn.tuner.system import wait_until_idle

__all__ = ["Live", "Source", "TrialError", "numpy_dtype", "sample_seconds"]

# Duration of a sample.  Ten calls average out the timer's resolution and cache effects, and fit
# into 5 ms if a call takes microseconds; longer samples would only meet more interruptions.  Calls
# of milliseconds get 20 ms: several calls, within the time that a search has for a sample.
_MIN_SECONDS = 0.005
_MAX_SECONDS = 0.020
_CALLS = 10
# The first call of a sample pays for waking the threads (up to a few ms) and is discarded, unless
# it takes at least this long: then that is below 2 %.
_KEEP_FIRST_SECONDS = 0.2
# The addresses of arrays change times by some per cent, and can decide between configurations.  So
# arrays of at most so many bytes have several copies, of which each repetition takes the next.
_COPIES = 8
_COPIED_BYTES = 4 << 20


class TrialError(Exception):
    """A point that cannot be measured: it raises, or its result is wrong."""


class Source(Protocol):
    """Where samples come from: this machine (`Live`), or a record of one.

    `spent_seconds` counts the time spent in calls so far, discarded ones included.
    """

    spent_seconds: float

    def start_repetition(self) -> None:
        """Begin a new repetition."""

    def sample(self, point: Point) -> float:
        """Seconds of one call; raises TrialError."""


def sample_seconds(call_seconds: float) -> float:
    """Duration of a sample of calls that take `call_seconds` each: 5 to 20 ms."""
    return min(_MAX_SECONDS, max(_MIN_SECONDS, _CALLS * call_seconds))


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """Copies of q, k, v and the result's array, in one data type, and the result expected."""

    copies: tuple[tuple[NDArray[Any], ...], ...]
    expected: Expected


class Live:
    """Samples of public calls on this machine.

    Inputs are standard normal and made once for each data type; so is the array of the result,
    which every call gets as `out`, because its allocation does not depend on the configuration.
    Before a point's first sample, one call is made whose result is checked: a wrong result is
    never timed.

    Parameters
    ----------
    space : Space
    spec : CallSpec
        Of arrays with one batch axis; a causal mask is aligned bottom-right.
    seed : int
        Seed of the inputs.

    Attributes
    ----------
    spent_seconds : float
        Time spent in samples.
    preparation_seconds : float
        Time spent in making inputs, compiling, and checked calls.
    """

    def __init__(
        self,
        space: Space,
        spec: CallSpec,
        seed: int = 0,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[], object] = wait_until_idle,
    ) -> None:
        self.spent_seconds = 0.0
        self.preparation_seconds = 0.0
        self._space, self._spec, self._seed = space, spec, seed
        self._clock, self._wait = clock, wait
        self._repetition = 0
        self._inputs: dict[str, _Inputs] = {}
        self._checked: dict[Point, Candidate] = {}
        self._failed: dict[Point, str] = {}
        self._call_seconds: dict[Point, float] = {}

    def start_repetition(self) -> None:
        """Go on to the next copy of the arrays."""
        self._repetition += 1

    def warm_up(self) -> None:
        """Compile, and import what is heavy: one tiny call of each implementation and type."""
        begin = self._clock()
        found = [candidate(self._space, point, self._spec) for point in self._space.points]
        for impl, dtype in sorted({(one.impl, one.dtype) for one in found}):
            tiny = np.ones((2, 2), numpy_dtype(dtype))
            with contextlib.suppress(Exception):  # its points will fail, each with the reason
                attention(tiny, tiny, tiny, impl=cast("Any", impl))
        self.preparation_seconds += self._clock() - begin

    def sample(self, point: Point) -> float:
        """Seconds of one call, the lower quartile of some.

        TrialError if the call raises, or its result is wrong.
        """
        if point in self._failed:
            raise TrialError(self._failed[point])
        collecting = gc.isenabled()
        try:
            if point not in self._checked:
                self._checked[point] = self._check(candidate(self._space, point, self._spec))
            call = self._call(self._checked[point])
            self._wait()  # spinning threads of the sample before would take CPUs from this one
            gc.disable()
            return self._measure(point, call)
        except Exception as error:
            known = isinstance(error, TrialError)
            self._failed[point] = str(error) if known else f"{type(error).__name__}: {error}"
            raise TrialError(self._failed[point]) from error
        finally:
            if collecting:
                gc.enable()

    def _measure(self, point: Point, call: Callable[[], object]) -> float:
        begin = self._clock()
        call()
        first = self._clock() - begin
        if first >= _KEEP_FIRST_SECONDS:
            seconds = first
        else:
            each = self._call_seconds.get(point)
            if each is None:
                each = first if first >= _MAX_SECONDS else self._quartile(call, 1)
            seconds = self._quartile(call, max(1, round(sample_seconds(each) / each)))
        self.spent_seconds += self._clock() - begin
        self._call_seconds[point] = seconds
        return seconds

    def _quartile(self, call: Callable[[], object], calls: int) -> float:
        """Lower quartile of the seconds of `calls` calls."""
        times = [self._clock()]
        for _ in itertools.repeat(None, calls):
            call()
            times.append(self._clock())
        seconds = sorted(after - before for before, after in itertools.pairwise(times))
        return max(seconds[calls // 4], 1e-9)

    def _check(self, found: Candidate) -> Candidate:
        """Make one call and check its result."""
        begin = self._clock()
        try:
            *_, out = self._arrays(found)
            out.fill(np.nan)
            self._call(found)()
            if (error := find_error(out, self._inputs_of(found.dtype).expected)) is not None:
                raise TrialError(error)
            return found
        finally:
            self.preparation_seconds += self._clock() - begin

    def _call(self, found: Candidate) -> Callable[[], object]:
        q, k, v, out = self._arrays(found)
        causal = self._spec.causal
        return functools.partial(
            attention,
            q,
            k,
            v,
            causal=causal,
            align="bottom_right" if causal else None,
            out=out,
            impl=found.impl,
            config=found.config,
        )

    def _arrays(self, found: Candidate) -> tuple[NDArray[Any], ...]:
        """This repetition's copy of the arrays."""
        copies = self._inputs_of(found.dtype).copies
        return copies[self._repetition % len(copies)]

    def _inputs_of(self, name: str) -> _Inputs:
        if name not in self._inputs:
            spec, rng, dtype = self._spec, np.random.default_rng(self._seed), numpy_dtype(name)
            q, k, v = (
                rng.standard_normal(shape, np.float32).astype(dtype, copy=False)
                for shape in (
                    (spec.batch, spec.heads_q, spec.length_q, spec.dim),
                    (spec.batch, spec.heads_kv, spec.length_k, spec.dim),
                    (spec.batch, spec.heads_kv, spec.length_k, spec.dim_v),
                )
            )
            arrays = q, k, v, np.empty((*q.shape[:-1], spec.dim_v), dtype)
            small = sum(array.nbytes for array in arrays) <= _COPIED_BYTES
            copies = [tuple(a.copy() for a in arrays) for _ in range(_COPIES - 1 if small else 0)]
            expected = reference_rows(q, k, v, spec, rng)
            self._inputs[name] = _Inputs((arrays, *copies), expected)
        return self._inputs[name]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's data type of that name; UnavailableError if that needs a missing package."""
    if name != "bfloat16":
        return np.dtype(name)
    if (reason := import_failure("ml_dtypes")) is not None:
        raise UnavailableError(
            "dtype", f"{name}: {reason}", "types of installed packages", "pip install ml_dtypes"
        )
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
