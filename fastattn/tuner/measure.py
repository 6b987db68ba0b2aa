"""Blocks of calls, timed: what a source of them is, and `Live`, the one on this machine.

A block is the unit of every comparison: the calls of one point, one after the other.  It counts
by its lower quartile: interruptions and neighbours only ever add to a call's time, and on a shared
machine the means of blocks differ several times as much.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastattn._api import attention
from fastattn._spec import CallSpec
from fastattn.tuner.check import Expected, disagreement, expect
from fastattn.tuner.settle import settle
from fastattn.tuner.space import Candidate, Point, Space, candidate
from fastattn.tuner.workload import numpy_dtype

__all__ = ["Live", "Source", "TrialError", "block_seconds"]

# How long the calls of a block last together.  If a call takes microseconds, ten calls average out
# the timer and the luck of the caches, and 5 ms hold them; longer blocks would only meet more
# interruptions, each of some milliseconds, which the median over blocks deals with.  Calls of
# milliseconds get 20 ms: several of them, in less time than a search has for a block.
_SHORTEST_SECONDS = 0.005
_LONGEST_SECONDS = 0.020
_CALLS = 10
# Threads start, or wake, in a block's first call, which is dropped for that reason, unless it is
# so long that this, some milliseconds if a CPU is taken, is at most 2 % of it.
_UNDROPPED_SECONDS = 0.2
# Where arrays happen to lie in memory changes times by some per cent, and can decide between
# configurations: so small arrays take turns in several places, as they will for those who use what
# is found.
_PLACES = 8
_MOVED_BYTES = 4 << 20


class TrialError(Exception):
    """A point that cannot be measured: it raises, or its result is wrong."""


class Source(Protocol):
    """Where blocks come from: this machine (`Live`), or a record of one.

    `spent_seconds` counts the kernel's time so far, dropped calls included.
    """

    spent_seconds: float

    def start_round(self) -> None:
        """A new round of turns begins."""

    def block(self, point: Point) -> float:
        """Seconds of one call, the lower quartile of a block; raises TrialError."""


def block_seconds(call_seconds: float) -> float:
    """Length of a block of calls that take `call_seconds` each: 5 to 20 ms."""
    return min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, _CALLS * call_seconds))


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """Queries, keys, values and the result's array of one data type, in several places in memory.

    All places hold the same numbers; the result that they should give is `expected`.
    """

    places: tuple[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], ...]
    expected: Expected


class Live:
    """Blocks of public calls on this machine.

    Inputs are standard normal and made once for each data type; so is the result array, which
    every call is given as `out`, because allocating it has nothing to do with the configuration.
    Small arrays lie in another place in each round.

    A point's first block is preceded by a call that is not timed and whose result is checked
    (`check`): a wrong result is never timed.

    Parameters
    ----------
    space : Space
    spec : CallSpec
        Of arrays with one batch axis; a causal mask is aligned bottom-right.
    seed : int
        Seed of the inputs.
    length : callable, optional
        Gives the seconds of a block for the seconds of a call.

    Attributes
    ----------
    spent_seconds : float
        Time spent in blocks.
    preparation_seconds : float
        Time spent in making inputs, compiling, and checked calls.
    """

    def __init__(
        self,
        space: Space,
        spec: CallSpec,
        seed: int = 0,
        *,
        length: Callable[[float], float] = block_seconds,
        clock: Callable[[], float] = time.perf_counter,
        settle: Callable[[], object] = settle,
    ) -> None:
        self.spent_seconds = 0.0
        self.preparation_seconds = 0.0
        self._space, self._spec, self._seed = space, spec, seed
        self._length, self._clock, self._settle = length, clock, settle
        self._rounds = 0
        self._inputs: dict[str, _Inputs] = {}
        self._known: dict[Point, Candidate] = {}
        self._failed: dict[Point, str] = {}
        self._each: dict[Point, float] = {}

    def start_round(self) -> None:
        """Move the arrays on to their next place."""
        self._rounds += 1

    def warm_up(self) -> None:
        """Compile, and load what is heavy: one tiny call of each implementation and type."""
        begin = self._clock()
        meant = [candidate(self._space, point, self._spec) for point in self._space.points]
        for impl, dtype in sorted({(one.impl, one.dtype) for one in meant}):
            tiny = np.ones((2, 2), numpy_dtype(dtype))
            with contextlib.suppress(Exception):  # its points will fail, each with the reason
                attention(tiny, tiny, tiny, impl=impl)
        self.preparation_seconds += self._clock() - begin

    def block(self, point: Point) -> float:
        """Seconds of one call, the lower quartile of a block.

        Raises
        ------
        TrialError
            The call raises, or its result is wrong.
        """
        call = self._checked(point)
        self._settle()  # threads of the block before would take the CPUs of this one
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._block(point, call)
        except Exception as error:
            self._failed[point] = _words(error)
            raise TrialError(self._failed[point]) from error
        finally:
            if collecting:
                gc.enable()

    def _block(self, point: Point, call: Callable[[], object]) -> float:
        begin = self._clock()
        call()
        first = self._clock() - begin
        if first >= _UNDROPPED_SECONDS:
            seconds = first
        else:
            each = self._each.get(point)
            if each is None:
                each = first if first >= _LONGEST_SECONDS else self._quartile(call, 1)
            seconds = self._quartile(call, max(1, round(self._length(each) / each)))
        self.spent_seconds += self._clock() - begin
        self._each[point] = seconds
        return seconds

    def _quartile(self, call: Callable[[], object], calls: int) -> float:
        """Lower quartile of the seconds of `calls` calls."""
        times = [self._clock()]
        for _ in itertools.repeat(None, calls):
            call()
            times.append(self._clock())
        seconds = sorted(after - before for before, after in itertools.pairwise(times))
        return max(seconds[calls // 4], 1e-9)

    def _checked(self, point: Point) -> Callable[[], object]:
        """The point's call, after its result was checked to be right."""
        if point in self._failed:
            raise TrialError(self._failed[point])
        if point not in self._known:
            begin = self._clock()
            try:
                self._known[point] = self._first(candidate(self._space, point, self._spec))
            except Exception as error:
                self._failed[point] = _words(error)
                raise TrialError(self._failed[point]) from error
            finally:
                self.preparation_seconds += self._clock() - begin
        return self._call(self._known[point])

    def _first(self, meant: Candidate) -> Candidate:
        *_, out = self._arrays(meant)
        out.fill(np.nan)
        self._call(meant)()
        if (fault := disagreement(out, self._inputs_of(meant.dtype).expected)) is not None:
            raise TrialError(fault)
        return meant

    def _call(self, meant: Candidate) -> Callable[[], object]:
        q, k, v, out = self._arrays(meant)
        causal = self._spec.causal
        return functools.partial(
            attention,
            q,
            k,
            v,
            causal=causal,
            align="bottom_right" if causal else None,
            out=out,
            impl=meant.impl,
            config=meant.config,
        )

    def _arrays(self, meant: Candidate) -> tuple[NDArray[Any], ...]:
        """The arrays of this round's place."""
        places = self._inputs_of(meant.dtype).places
        return places[self._rounds % len(places)]

    def _inputs_of(self, name: str) -> _Inputs:
        if name not in self._inputs:
            g, rng, dtype = self._spec, np.random.default_rng(self._seed), numpy_dtype(name)
            q, k, v = (
                rng.standard_normal(shape, np.float32).astype(dtype, copy=False)
                for shape in (
                    (g.batch, g.heads_q, g.length_q, g.dim),
                    (g.batch, g.heads_kv, g.length_k, g.dim),
                    (g.batch, g.heads_kv, g.length_k, g.dim_v),
                )
            )
            out = np.empty((*q.shape[:-1], g.dim_v), dtype)
            small = q.nbytes + k.nbytes + v.nbytes + out.nbytes <= _MOVED_BYTES
            others = range(_PLACES - 1 if small else 0)
            places = ((q, k, v, out), *((q.copy(), k.copy(), v.copy(), out.copy()) for _ in others))
            self._inputs[name] = _Inputs(places, expect(q, k, v, g, rng))
        return self._inputs[name]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, TrialError) else f"{type(error).__name__}: {error}"
