"""`search`: race what a strategy proposes, report the scores to it, then hold a paired final.

Measurements come from a `Source`, so that a search over recorded measurements is the same
search.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastattn.tuner.measure import Source
from fastattn.tuner.race import Race
from fastattn.tuner.record import Evaluation, Search
from fastattn.tuner.select import MIN_REPETITIONS, Decision, decide, spread
from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies import Strategy, Trial

__all__ = ["Event", "search"]

# Share of the time that is reserved for the final: at least the first; up to the second, if two
# finalists need that for `MIN_REPETITIONS`.
_FINAL_SHARES = (0.4, 0.7)
_FINALISTS = 4  # besides the baseline and remembered points
# If samples are short, the final has more repetitions, up to three times as many, to last so long.
_FINAL_REPETITIONS = 15
_FINAL_SECONDS = 1.5
_MAX_FACTOR = 3
_MAX_DRIFT = 0.05
_MAX_BOUND = 0.05
_DRIFT_SAMPLES = 9  # of the baseline, to tell drift from noise: three in each third


@dataclass(frozen=True, slots=True)
class Event:
    """State of a search, reported after each sample.

    Attributes
    ----------
    phase : str
        "search" or "final".
    done : int
        Points measured so far, or repetitions of the final.
    point : Point
        Point of the sample.
    best : Point
        The best so far.
    ratio : float
        Its time over the baseline's.
    """

    phase: str
    done: int
    point: Point
    best: Point
    ratio: float


def search(
    space: Space,
    source: Source,
    strategy: Strategy,
    baseline: Point,
    *,
    rng: np.random.Generator,
    remembered: Sequence[Point] = (),
    seconds: float | None = None,
    on_event: Callable[[Event], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Search:
    """Find the best point of a space.

    Every point is compared with `baseline`, the default, which wins ties.  `remembered` points take
    part in the final however they did before.  `rng` draws the order of samples, and the bootstrap.
    After `seconds` no sample is begun but one of the baseline, which completes a repetition.
    `on_event` is called with an `Event` after each sample.

    Ctrl-C ends the search at any time: what was found until then is returned.  TrialError if the
    baseline cannot be measured.
    """
    state = _State(space, source, strategy, baseline, rng, seconds, on_event, clock)
    interrupted = False
    try:
        state.explore()
        state.hold_final(remembered)
    except KeyboardInterrupt:
        interrupted = True
    return state.conclude(interrupted)


class _State:
    """A search in progress; it can be concluded at any time."""

    def __init__(
        self,
        space: Space,
        source: Source,
        strategy: Strategy,
        baseline: Point,
        rng: np.random.Generator,
        seconds: float | None,
        on_event: Callable[[Event], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._space, self._source, self._strategy = space, source, strategy
        self._baseline, self._rng = baseline, rng
        self._limit = math.inf if seconds is None else seconds
        self._on_event, self._clock = on_event, clock
        self._begin, self._spent_before = clock(), source.spent_seconds
        self._samples = 0
        self._cut_short = False
        self._optimiser_seconds = 0.0
        self._evaluations: dict[Point, Evaluation] = {}
        self._repetitions: list[dict[Point, float]] = []
        self._race: Race | None = None
        self._final: Race | None = None
        self._finalists: tuple[Point, ...] = ()

    def explore(self) -> None:
        """Race what the strategy proposes, until it is done or the search's time is over."""
        batch = 0
        while trials := self._timed(self._strategy.ask):
            if self._explored():
                self._cut_short = True
                return
            race = self._new_race(trials, incumbent=self._best()[0])
            self._race = race
            try:
                race.run(self._explored)
            finally:
                scores = self._record(race, batch)
            for point, score in scores.items():
                self._timed(functools.partial(self._strategy.tell, point, score))
            self._cut_short = not race.completed
            batch += 1

    def hold_final(self, remembered: Sequence[Point]) -> None:
        """Measure the best, the baseline and remembered points, all of them in each repetition."""
        self._finalists = self._select_finalists(remembered)
        if not self._finalists:
            return
        fitting = int(_FINAL_SECONDS / max(1e-9, len(self._finalists) * self._sample_seconds()))
        repetitions = min(_MAX_FACTOR * _FINAL_REPETITIONS, max(_FINAL_REPETITIONS, fitting))
        trials = [Trial(point, repetitions) for point in self._finalists]
        self._final = self._new_race(trials, drop=False)
        self._final.run(lambda: self._left() <= 0)

    def conclude(self, interrupted: bool) -> Search:
        """Decide by the repetitions that there are."""
        points, rows = self._final_table()
        decision: Decision | None = None
        if rows:
            logs = np.log(np.array(rows))
            decision = self._timed(lambda: decide(points, logs, self._preference, self._rng))
        winner = self._baseline if decision is None else decision.winner
        own = [row[points.index(winner)] for row in rows]
        drift = self._drift()
        return Search(
            baseline=self._baseline,
            winner=winner,
            evaluations=tuple(self._evaluations.values()),
            finalists=points,
            final_seconds=tuple(rows),
            decision=decision,
            points=len(self._space),
            drift=drift,
            variation=statistics.stdev(own) / statistics.mean(own) if len(own) > 1 else None,
            cut_short=self._cut_short,
            interrupted=interrupted,
            warnings=tuple(self._warnings(interrupted, len(rows), drift, decision)),
            optimiser_seconds=self._optimiser_seconds,
            kernel_seconds=self._source.spent_seconds,
            seconds=self._clock() - self._begin,
        )

    def _timed(self, act: Callable[[], Any]) -> Any:
        begin = self._clock()
        try:
            return act()
        finally:
            self._optimiser_seconds += self._clock() - begin

    def _left(self) -> float:
        """Seconds that are left."""
        return self._limit - (self._clock() - self._begin)

    def _sample_seconds(self) -> float:
        """Mean duration of a sample so far."""
        return (self._source.spent_seconds - self._spent_before) / max(1, self._samples)

    def _explored(self) -> bool:
        """Whether the time that is left is reserved for the final."""
        if self._limit == math.inf:
            return False
        least, most = (share * self._limit for share in _FINAL_SHARES)
        return self._left() <= max(least, min(most, 2 * MIN_REPETITIONS * self._sample_seconds()))

    def _new_race(self, trials: Sequence[Trial], incumbent: float = 0.0, drop: bool = True) -> Race:
        return Race(
            self._source,
            trials,
            self._baseline,
            self._rng,
            incumbent=incumbent,
            drop=drop,
            on_sample=self._report,
        )

    def _report(self, point: Point) -> None:
        self._samples += 1
        if self._on_event is None:
            return
        score, best = self._best()
        if self._final is not None:
            phase, done = "final", len(self._final.repetitions)
        else:
            running = set() if self._race is None else self._race.outcomes().keys()
            phase, done = "search", len(self._evaluations.keys() | running)
        self._on_event(Event(phase, done, point, best, math.exp(score)))

    def _record(self, race: Race, batch: int) -> dict[Point, float | None]:
        """Keep a race's outcomes; return its points' scores over all races that they were in."""
        self._race = None
        self._repetitions += race.repetitions
        scores = {}
        for point, outcome in race.outcomes().items():
            earlier = self._evaluations.get(point)
            found = Evaluation(
                log_ratios=(earlier.log_ratios if earlier else ()) + outcome.log_ratios,
                dropped=outcome.dropped,
                failure=outcome.failure,
                point=point,
                values=self._space.values(point),
                batch=earlier.batch if earlier else batch,
            )
            self._evaluations[point], scores[point] = found, found.score
        return scores

    def _ranked(self) -> list[tuple[float, Point]]:
        """Scores and points, the best first, without failures; dropped ones come last."""
        rows = [
            (one.dropped, one.score, point)
            for point, one in self._evaluations.items()
            if one.score is not None
        ]
        return [(score, point) for _, score, point in sorted(rows)]

    def _best(self) -> tuple[float, Point]:
        running = {} if self._race is None else self._race.outcomes()
        scores = [(one.score, point) for point, one in running.items() if one.score is not None]
        return min([(0.0, self._baseline), *self._ranked()[:1], *scores])

    def _select_finalists(self, remembered: Sequence[Point]) -> tuple[Point, ...]:
        """Points of the final, the baseline first; none if there is no time.

        If time is short, the number of finalists is reduced before that of repetitions.
        """
        ranked = [point for _, point in self._ranked() if point != self._baseline]
        best, others = ranked[:1], ranked[1:_FINALISTS]
        others = [point for point in others if not self._evaluations[point].dropped]
        known = [point for point in remembered if point in self._space]
        failed = {point for point, one in self._evaluations.items() if one.failure is not None}
        wanted = dict.fromkeys([self._baseline, *best, *known, *others])
        points = [point for point in wanted if point not in failed]
        if len(points) < 2:
            return ()
        left, each = self._left(), self._sample_seconds()
        while len(points) > 2 and left < MIN_REPETITIONS * len(points) * each:
            points.pop()
        return tuple(points) if left > len(points) * each else ()

    def _final_table(self) -> tuple[tuple[Point, ...], list[tuple[float, ...]]]:
        """Finalists and the repetitions in which each of them was measured."""
        if self._final is None:
            return (), []
        outcomes = self._final.outcomes()
        failed = {point for point, one in outcomes.items() if one.failure is not None}
        points = tuple(point for point in self._finalists if point not in failed)
        whole = [row for row in self._final.repetitions if row.keys() >= set(points)]
        return (points if whole else ()), [tuple(row[point] for point in points) for row in whole]

    def _preference(self, point: Point) -> tuple[int, int, Point]:
        """Fewer threads, smaller blocks, then any fixed order."""
        values = self._space.values(point)
        numbers = {name: int(value) for name, value in values.items() if isinstance(value, int)}
        blocks = [number for name, number in numbers.items() if name.startswith("block")]
        return numbers.get("threads", 1), math.prod(blocks), point

    def _drift(self) -> float | None:
        """Largest difference of the baseline's medians in thirds of the final, beyond chance.

        What the spread within the thirds can make of their medians, three standard errors, is
        subtracted.  If the final has too few repetitions, the whole search is used.
        """
        final = [] if self._final is None else self._final.repetitions
        rows = final if len(final) >= _DRIFT_SAMPLES else self._repetitions + final
        seconds = [row[self._baseline] for row in rows]
        if len(seconds) < _DRIFT_SAMPLES:
            return None
        thirds = np.array_split(np.log(seconds), 3)
        medians = [np.median(third) for third in thirds]
        within = np.concatenate(
            [third - median for third, median in zip(thirds, medians, strict=True)]
        )
        error = math.sqrt(math.pi / 2 * 2 / (len(seconds) / 3)) * math.log1p(spread(within))
        return math.expm1(max(0.0, float(max(medians) - min(medians)) - 3 * error))

    def _warnings(
        self, interrupted: bool, repetitions: int, drift: float | None, decision: Decision | None
    ) -> list[str]:
        found = []
        compared = self._evaluations.items()
        if interrupted:
            found.append("it was interrupted")
        elif all(point == self._baseline or not one.log_ratios for point, one in compared):
            found.append("nothing was compared with the default")
        elif repetitions < MIN_REPETITIONS:
            found.append(f"the final had time for {repetitions} repetitions")
        if drift is not None and drift > _MAX_DRIFT:
            found.append(f"the default's time drifted by {100 * drift:.0f} %")
        bound = None if decision is None else decision.selection_bound
        if bound is not None and bound > _MAX_BOUND:
            found.append(f"another finalist may be {100 * bound:.0f} % faster")
        return found
