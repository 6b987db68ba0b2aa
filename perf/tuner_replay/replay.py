"""`Replay`: a recorded table as a source of samples; and one judged search of it.

A repetition of a race is a recorded one, drawn at random, so that its points share what the
machine was like, as they do live.  The search is the tuner's own, final and decision included.
"""

from __future__ import annotations

import functools
import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastattn.tuner.measure import TrialError
from fastattn.tuner.search import search
from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies import Strategy, Trial
from perf.tuner_replay.recorded_table import Table

__all__ = ["SAMPLES", "Make", "Replay", "Replayed", "Watched", "replay", "warm_start"]

SAMPLES = 5  # samples of an evaluation, as in `fastattn.tune`

Make = Callable[[Space, int, int, Sequence[Point], int], Strategy]


class Replay:
    """Samples that were recorded: a source like `fastattn.tuner.measure.Live`.

    Parameters
    ----------
    table : Table
    seed : int
        Seed for drawing the repetitions.
    """

    def __init__(self, table: Table, seed: int) -> None:
        self.spent_seconds = 0.0
        self._table, self._index = table, table.space.index
        self._repetitions, self._costs = _plain(table)
        self._draw = random.Random(seed)
        self.start_repetition()

    def start_repetition(self) -> None:
        """Draw a recorded repetition."""
        self._repetition = self._draw.choice(self._repetitions)

    def sample(self, point: Point) -> float:
        """The point's sample in that repetition.

        Raises
        ------
        TrialError
            The point failed when it was recorded.
        """
        at = self._index(point)
        seconds = self._repetition[at]
        if math.isnan(seconds):
            raise TrialError(self._table.failures[point])
        self.spent_seconds += self._costs[at]
        return seconds


@functools.lru_cache(maxsize=64)
def _plain(table: Table) -> tuple[list[list[float]], list[float]]:
    """Seconds by repetition and index, and sample costs by index: lists are quicker to look up."""
    return table.seconds.T.tolist(), table.sample_seconds.tolist()


class Watched:
    """A strategy, and what is noted about it to judge it.

    Attributes
    ----------
    leaders : list of (float, Point)
        For each evaluation, how many there were up to it, and the best point so far by score.
    explored_seconds : float
        Seconds that the source had spent when the strategy was last asked.
    """

    def __init__(self, strategy: Strategy, source: Replay, baseline: Point) -> None:
        self.leaders: list[tuple[float, Point]] = []
        self.explored_seconds = 0.0
        self._strategy, self._source = strategy, source
        self._scores = {baseline: 0.0}
        self._done, self._weights = 0.0, dict[Point, float]()

    def ask(self) -> list[Trial]:
        self.explored_seconds = self._source.spent_seconds
        trials = self._strategy.ask()
        self._weights = {trial.point: trial.samples / SAMPLES for trial in trials}
        return trials

    def tell(self, point: Point, score: float | None) -> None:
        self._done += self._weights[point]
        if score is not None:
            self._scores[point] = score
        self.leaders.append((self._done, min(self._scores, key=self._scores.__getitem__)))
        self._strategy.tell(point, score)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One search, judged.

    Attributes
    ----------
    winner : int
        The winner's index in the space.
    regret : float
        The winner's true time over the least true time, less 1.
    evaluations : float
        Evaluations asked for; a point that was asked for twice counts twice.
    explored_seconds, kernel_seconds : float
        Kernel-seconds before the final, and in all.
    optimiser_seconds : float
        Seconds in the strategy and the decision.
    course : tuple of int
        Place of the best point so far by score, after each evaluation.
    """

    winner: int
    regret: float
    evaluations: float
    explored_seconds: float
    kernel_seconds: float
    optimiser_seconds: float
    course: tuple[int, ...]


def replay(
    table: Table, make: Make, budget: int, seed: int, known: Sequence[Point] = ()
) -> Replayed:
    """Search a table once.

    Parameters
    ----------
    table : Table
    make : callable
        Makes the strategy, with the arguments of `fastattn.tuner.strategies.Strategy`.
    budget : int
        Evaluations.
    seed : int
        Seed of the strategy, of the recorded repetitions that are drawn, and of the order of turns:
        searches of one table with the same seed get the same repetitions.
    known : sequence of Point
        Winners remembered from other problems.
    """
    drawn = zlib.crc32(f"{table.name} {seed}".encode())
    source = Replay(table, drawn)
    strategy = make(table.space, budget, seed, [table.baseline, *known], SAMPLES)
    watched = Watched(strategy, source, table.baseline)
    found = search(
        table.space,
        source,
        watched,
        table.baseline,
        rng=np.random.default_rng(drawn),
        remembered=known,
    )
    index = table.space.index
    winner = index(found.winner)
    return Replayed(
        winner=winner,
        regret=float(table.regrets[winner]),
        evaluations=watched.leaders[-1][0] if watched.leaders else 0.0,
        explored_seconds=watched.explored_seconds,
        kernel_seconds=found.kernel_seconds,
        optimiser_seconds=found.optimiser_seconds,
        course=_course(watched.leaders, budget, index(table.baseline), index),
    )


def _course(
    leaders: Sequence[tuple[float, Point]], budget: int, start: int, index: Callable[[Point], int]
) -> tuple[int, ...]:
    """Place of the leader after 1, 2, ... evaluations; `start` before the first."""
    course, at, here = [], 0, start
    for count in range(1, budget + 1):
        while at < len(leaders) and leaders[at][0] <= count + 1e-9:
            here = index(leaders[at][1])
            at += 1
        course.append(here)
    return tuple(course)


def warm_start(table: Table, others: Sequence[Table], count: int) -> tuple[Point, ...]:
    """Where winners of the nearest other problems lie in a table's space.

    Distance is measured in octaves of the sizes; another data type or mask counts as two octaves.
    As in wisdom, a field in which the winner has its problem's default takes this one's default.
    """
    known = sorted(
        (other for other in others if other.name != table.name), key=lambda o: _apart(table, o)
    )
    points = (_carried(other, table) for other in known[:count])
    return tuple(dict.fromkeys(point for point in points if point is not None))


def _carried(source: Table, target: Table) -> Point | None:
    """The best point of one problem, carried over to another."""
    winner, default = source.space.values(source.best), source.space.values(source.baseline)
    here = target.space.values(target.baseline)
    values = {name: here.get(name, v) if v == default[name] else v for name, v in winner.items()}
    return target.space.nearest(values)


def _apart(one: Table, other: Table) -> float:
    mine, its = one.metadata["workload"], other.metadata["workload"]
    octaves: float = sum(
        abs(math.log2(a / b)) for a, b in zip(mine["shape"], its["shape"], strict=True)
    )
    other_kinds = sum(bool(mine[name] != its[name]) for name in ("dtype", "causal"))
    return octaves + 2.0 * other_kinds
