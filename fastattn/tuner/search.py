"""`search`: ask a strategy, race what it proposes, tell it the scores; then a paired final.

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
from fastattn.tuner.race import Outcome, Race
from fastattn.tuner.record import Evaluation, Search
from fastattn.tuner.select import LEAST_ROUNDS, Decision, decide, spread
from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies import Strategy, Trial

__all__ = ["Event", "search"]

# Share of the time that is left to the final: the first, or more, up to the second, if it needs
# that for its least rounds of two finalists.
_FINAL_SHARES = (0.4, 0.7)
_MOST_DRIFT = 0.05
_MOST_OPEN = 0.05
# If blocks are short the final has more rounds, up to three times as many, to last this long.
_FINAL_SECONDS = 1.5
_MORE_ROUNDS = 3
_LEAST_CONTROLS = 9  # blocks, to tell drift from noise: three in each third


@dataclass(frozen=True, slots=True)
class Event:
    """Where a search stands, told after each block.

    Attributes
    ----------
    phase : str
        "search" or "final".
    done : int
        Points measured so far, or rounds of the final.
    point : Point
        Point whose block it was.
    best : Point
        The best so far.
    ratio : float
        Its time over the control's.
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
    control: Point,
    *,
    rng: np.random.Generator,
    final_rounds: int = 15,
    finalists: int = 4,
    remembered: Sequence[Point] = (),
    seconds: float | None = None,
    on_event: Callable[[Event], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Search:
    """Find the best point of a space.

    Ctrl-C ends the search at any time: what was found until then is returned.

    Parameters
    ----------
    space : Space
    source : Source
    strategy : Strategy
    control : Point
        The default: every point is compared with it, and it wins ties.
    rng : Generator
        Draws the order of turns, and the bootstrap.
    final_rounds, finalists : int
        Rounds of the final, up to three times as many if blocks are short; and how many of
        the best points take part in it, besides the control and `remembered`.  If time is
        short, the number of finalists is reduced first.
    seconds : float, optional
        After this time no block is begun but one of the default, which closes a round.
    on_event : callable, optional
        Called with an `Event` after each block.

    Raises
    ------
    TrialError
        The control cannot be measured.
    """
    run = _Run(space, source, strategy, control, rng, final_rounds, seconds, on_event, clock)
    try:
        run.explore()
        run.hold_final(finalists, remembered)
    except KeyboardInterrupt:
        run.interrupted = True
    return run.conclude()


class _Run:
    """A search under way; it can be concluded at any time."""

    def __init__(
        self,
        space: Space,
        source: Source,
        strategy: Strategy,
        control: Point,
        rng: np.random.Generator,
        final_rounds: int,
        seconds: float | None,
        on_event: Callable[[Event], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.interrupted = False
        self._space, self._source, self._strategy = space, source, strategy
        self._control, self._rng, self._final_rounds = control, rng, final_rounds
        self._limit, self._on_event, self._clock = seconds, on_event, clock
        self._begin, self._spent_before = clock(), source.spent_seconds
        self._blocks = 0
        self._cut_short = False
        self._optimiser_seconds = 0.0
        self._ratios: dict[Point, list[float]] = {}
        self._outcomes: dict[Point, Outcome] = {}
        self._batches: dict[Point, int] = {}
        self._rounds: list[dict[Point, float]] = []
        self._race: Race | None = None
        self._final: Race | None = None
        self._entered: tuple[Point, ...] = ()

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
                scores = self._take(race, batch)
            for point, score in scores.items():
                self._timed(functools.partial(self._strategy.tell, point, score))
            self._cut_short = not race.completed
            batch += 1

    def hold_final(self, finalists: int, remembered: Sequence[Point]) -> None:
        """Race the best, the control and what is remembered, all of them in every round."""
        entered = self._enter(finalists, remembered)
        if not entered:
            return
        self._entered = entered
        rounds = _FINAL_SECONDS / max(1e-9, len(entered) * self._each())
        rounds = min(_MORE_ROUNDS * self._final_rounds, max(self._final_rounds, int(rounds)))
        trials = [Trial(point, rounds) for point in entered]
        self._final = self._new_race(trials, drop=False)
        self._final.run(lambda: self._left() <= 0)

    def conclude(self) -> Search:
        """Decide by the rounds that there are."""
        points, rows = self._final_table()
        decision: Decision | None = None
        if rows:
            logs = np.log(np.array(rows))
            decision = self._timed(lambda: decide(points, logs, self._preference, self._rng))
        winner = self._control if decision is None else decision.winner
        own = [row[points.index(winner)] for row in rows]
        drift = self._drift()
        return Search(
            control=self._control,
            winner=winner,
            evaluations=tuple(self._evaluation(point) for point in self._batches),
            finalists=points,
            final_seconds=tuple(rows),
            decision=decision,
            seen=len(self._batches),
            valid=len(self._space),
            drift=drift,
            pair_variation=self._pair_variation(points, rows, winner),
            variation=statistics.stdev(own) / statistics.mean(own) if len(own) > 1 else None,
            cut_short=self._cut_short,
            interrupted=self.interrupted,
            troubles=tuple(self._troubles(len(rows), drift, decision)),
            optimiser_seconds=self._optimiser_seconds,
            kernel_seconds=self._source.spent_seconds,
            seconds=self._clock() - self._begin,
            strategy=self._strategy.state(),
        )

    def _timed(self, act: Callable[[], Any]) -> Any:
        begin = self._clock()
        try:
            return act()
        finally:
            self._optimiser_seconds += self._clock() - begin

    def _left(self) -> float:
        """Seconds that are left."""
        return math.inf if self._limit is None else self._limit - (self._clock() - self._begin)

    def _each(self) -> float:
        """Mean seconds of a block so far."""
        return (self._source.spent_seconds - self._spent_before) / max(1, self._blocks)

    def _explored(self) -> bool:
        """Whether the time that is left belongs to the final."""
        if self._limit is None:
            return False
        least, most = (share * self._limit for share in _FINAL_SHARES)
        return self._left() <= max(least, min(most, 2 * LEAST_ROUNDS * self._each()))

    def _new_race(self, trials: Sequence[Trial], incumbent: float = 0.0, drop: bool = True) -> Race:
        return Race(
            self._source,
            trials,
            self._control,
            self._rng,
            incumbent=incumbent,
            drop=drop,
            on_block=self._tell,
        )

    def _tell(self, point: Point) -> None:
        self._blocks += 1
        if self._on_event is None:
            return
        ratio, best = self._best()
        if self._final is not None:
            event = Event("final", len(self._final.rounds), point, best, math.exp(ratio))
        else:
            running = set() if self._race is None else self._race.outcomes().keys()
            done = len(self._batches.keys() | running)
            event = Event("search", done, point, best, math.exp(ratio))
        self._on_event(event)

    def _take(self, race: Race, batch: int) -> dict[Point, float | None]:
        """Keep a race's outcomes; return its points' scores over all races that they were in."""
        self._race = None
        self._rounds += race.rounds
        scores: dict[Point, float | None] = {}
        for point, outcome in race.outcomes().items():
            self._batches.setdefault(point, batch)
            self._outcomes[point] = outcome
            ratios = self._ratios.setdefault(point, [])
            ratios += outcome.log_ratios
            scores[point] = None if outcome.failure else statistics.median(ratios)
        return scores

    def _ranked(self) -> list[tuple[float, Point]]:
        """Scores and points, the best first, without those that failed; dropped ones come last."""
        rows = [
            (one.dropped, statistics.median(self._ratios[point]), point)
            for point, one in self._outcomes.items()
            if one.failure is None
        ]
        return [(score, point) for _, score, point in sorted(rows)]

    def _best(self) -> tuple[float, Point]:
        running = {} if self._race is None else self._race.outcomes()
        scores = [(one.score, point) for point, one in running.items() if one.score is not None]
        return min([(0.0, self._control), *self._ranked()[:1], *scores])

    def _enter(self, finalists: int, remembered: Sequence[Point]) -> tuple[Point, ...]:
        """Points that take part in the final, the control first; none if there is no time."""
        ranked = [point for _, point in self._ranked() if point != self._control]
        best, others = ranked[:1], ranked[1:finalists]
        others = [point for point in others if not self._outcomes[point].dropped]
        known = [point for point in remembered if point in self._space]
        failed = {point for point, one in self._outcomes.items() if one.failure is not None}
        wanted = dict.fromkeys([self._control, *best, *known, *others])
        entered = [point for point in wanted if point not in failed]
        if len(entered) < 2:
            return ()
        left, each = self._left(), self._each()
        while len(entered) > 2 and left < LEAST_ROUNDS * len(entered) * each:
            entered.pop()
        return tuple(entered) if left > len(entered) * each else ()

    def _final_table(self) -> tuple[tuple[Point, ...], list[tuple[float, ...]]]:
        """Finalists and the rounds in which each of them was measured."""
        if self._final is None:
            return (), []
        outcomes = self._final.outcomes()
        failed = {point for point, one in outcomes.items() if one.failure is not None}
        points = tuple(point for point in self._entered if point not in failed)
        whole = [row for row in self._final.rounds if row.keys() >= set(points)]
        return (points if whole else ()), [tuple(row[point] for point in points) for row in whole]

    def _evaluation(self, point: Point) -> Evaluation:
        outcome = self._outcomes[point]
        return Evaluation(
            point=point,
            values=self._space.values(point),
            batch=self._batches[point],
            log_ratios=tuple(self._ratios[point]),
            dropped=outcome.dropped,
            failure=outcome.failure,
        )

    def _preference(self, point: Point) -> tuple[int, int, Point]:
        """Fewer threads, smaller blocks, then any fixed order."""
        values = self._space.values(point)
        numbers = {name: int(value) for name, value in values.items() if isinstance(value, int)}
        blocks = [number for name, number in numbers.items() if name.startswith("block")]
        return numbers.get("threads", 1), math.prod(blocks), point

    def _drift(self) -> float | None:
        """How far apart the control's medians in thirds of the final are, beyond chance.

        The final decides; what went before only chose what takes part in it.  If it had too few
        rounds to tell, the whole search is looked at.  What the spread within the thirds can
        make of their medians, three standard errors, is subtracted.
        """
        decisive = [] if self._final is None else self._final.rounds
        rounds = decisive if len(decisive) >= _LEAST_CONTROLS else self._rounds + decisive
        seconds = [row[self._control] for row in rounds]
        if len(seconds) < _LEAST_CONTROLS:
            return None
        thirds = np.array_split(np.log(seconds), 3)
        medians = [np.median(third) for third in thirds]
        within = np.concatenate(
            [third - median for third, median in zip(thirds, medians, strict=True)]
        )
        error = math.sqrt(math.pi / 2 * 2 / (len(seconds) / 3)) * math.log1p(spread(within))
        return math.expm1(max(0.0, float(max(medians) - min(medians)) - 3 * error))

    def _pair_variation(
        self, points: tuple[Point, ...], rows: list[tuple[float, ...]], winner: Point
    ) -> float | None:
        """Spread of the winner's ratios to the control; if it won, the median finalist's."""
        if len(points) < 2 or len(rows) < 2:
            return None
        logs = np.log(np.array(rows))
        spreads = {point: spread(logs[:, at] - logs[:, 0]) for at, point in enumerate(points) if at}
        return spreads[winner] if winner in spreads else statistics.median(spreads.values())

    def _troubles(self, rounds: int, drift: float | None, decision: Decision | None) -> list[str]:
        found = []
        if self.interrupted:
            found.append("it was interrupted")
        elif all(point == self._control or not ratios for point, ratios in self._ratios.items()):
            found.append("nothing was compared with the default")
        elif rounds < LEAST_ROUNDS:
            found.append(f"the final had time for {rounds} rounds of {self._final_rounds}")
        if drift is not None and drift > _MOST_DRIFT:
            found.append(f"the default's time drifted by {100 * drift:.0f} %")
        open_ = None if decision is None else decision.selection_bound
        if open_ is not None and open_ > _MOST_OPEN:
            found.append(f"the rounds leave open whether another is {100 * open_:.0f} % faster")
        return found
