"""Searches on simulated machines: the right winner, and when it may be remembered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from simulated import SAMPLE_SECONDS, Machine, space

from fastattn.tuner.record import Search
from fastattn.tuner.search import Event, search
from fastattn.tuner.space import Point
from fastattn.tuner.strategies import Trial
from perf.tuner_replay.strategies import STRATEGIES

SPACE = space()
BASELINE = SPACE.points[3]
EQUAL = dict.fromkeys(SPACE.points, 1e-3)


def _valley(best: Point, depth: float = 0.7) -> dict[Point, float]:
    """Times that rise by 15 % with each step away from `best`."""
    steps = {p: sum(abs(a - b) for a, b in zip(p, best, strict=True)) for p in SPACE.points}
    top = 1e-3 * depth
    return {point: top * 1.15**away for point, away in steps.items()}


def _search(machine: Machine, strategy: str = "exhaustive", **more: Any) -> Search:
    budget, seed = more.pop("budget", 18), more.pop("seed", 0)
    start = [BASELINE, *more.get("remembered", ())]
    return search(
        SPACE,
        machine,
        STRATEGIES[strategy](SPACE, budget, seed, start),
        BASELINE,
        rng=np.random.default_rng(seed),
        clock=more.pop("clock", machine.clock),
        **more,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_right_winner(strategy: str) -> None:
    """Every strategy finds the lowest point of a smooth space that it may measure whole."""
    times = _valley((4, 0))
    found = _search(Machine(times, noise=0.02), strategy)
    assert found.winner == (4, 0)
    assert found.decision is not None
    assert found.decision.reason == "the fastest"
    standing = found.standing((4, 0))
    assert standing.ratio == pytest.approx(times[4, 0] / times[BASELINE], rel=0.03)
    assert standing.interval[0] < times[4, 0] / times[BASELINE] < standing.interval[1]
    assert not found.warnings
    assert found.drift < 0.05
    assert 0.005 < found.variation < 0.05
    assert found.points == len(SPACE)
    assert found.seconds == pytest.approx(found.kernel_seconds)


def test_measurements_are_kept() -> None:
    """Every block is in the record, which JSON can hold."""
    machine = Machine(_valley((4, 0)))
    found = _search(machine)
    final = len(found.final_seconds)
    assert final == 15
    assert found.finalists[0] == BASELINE
    assert len(found.finalists) == 5
    assert all(len(row) == 5 for row in found.final_seconds)
    before = {one.point: len(one.log_ratios) for one in found.evaluations}
    for point in SPACE.points:
        blocks = before[point] + final * (point in found.finalists)
        assert machine.taken[point] == blocks or point == BASELINE
    assert found.final_samples((0, 1)) == ()
    assert len(found.final_samples(found.winner)) == final
    document = json.loads(json.dumps(asdict(found)))
    assert document["winner"] == [4, 0]
    assert document["final_seconds"][0] == list(found.final_seconds[0])
    assert document["decision"]["standings"][0]["ratio"] == 1
    assert len(document["evaluations"]) == len(SPACE)
    assert document["evaluations"][0]["values"] == SPACE.values(found.evaluations[0].point)


def test_losers_cost_little() -> None:
    """Twice as slow: one block; half as slow again: three."""
    times = dict.fromkeys(SPACE.points, 3e-3) | {BASELINE: 1e-3, (0, 0): 1.5e-3, (1, 0): 0.9e-3}
    machine = Machine(times)
    found = _search(machine)
    assert found.winner == (1, 0)
    assert machine.taken[0, 0] == 3
    assert all(machine.taken[p] == 1 for p in SPACE.points if times[p] == 3e-3)
    assert set(found.finalists) == {BASELINE, (1, 0)}


def test_the_default_against_the_least_bad() -> None:
    """Where all others are far behind, the final still compares with one."""
    times = dict.fromkeys(SPACE.points, 3e-3) | {BASELINE: 1e-3}
    found = _search(Machine(times))
    assert found.winner == BASELINE
    assert len(found.finalists) == 2
    assert not found.warnings


def test_nothing_differs() -> None:
    """Equal points keep the default, in 95 % of 200 searches."""
    kept = 0
    for seed in range(200):
        found = _search(Machine(EQUAL, noise=0.03, seed=seed), "random", seed=seed, budget=8)
        kept += found.winner == BASELINE
    assert kept >= 190


def test_ties_go_to_the_default_then_to_fewer_threads() -> None:
    """Within one per cent."""
    near = EQUAL | {(1, 0): 0.995e-3}
    found = _search(Machine(near, noise=0.001))
    assert found.winner == BASELINE
    two = EQUAL | {(0, 1): 0.8e-3, (2, 0): 0.801e-3, (4, 0): 0.802e-3}
    found = _search(Machine(two, noise=0.001))
    assert found.winner == (2, 0)
    assert "fewest threads" in found.decision.reason


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"slowness": lambda seconds: 1.1 if seconds > 1.5 else 1.0}, "drifted"),
        ({"noise": 0.15}, "may be"),
    ],
)
def test_unsteady_machines_are_not_believed(changes: Mapping[str, Any], word: str) -> None:
    """Drift of the baseline and doubt about the winner are reasons not to remember."""
    found = _search(Machine(_valley((4, 0), 0.3), **changes))
    assert any(word in reason for reason in found.warnings)
    assert found.winner[0] in (3, 4, 5)


def test_a_slow_change_is_no_reason_to_choose_wrongly() -> None:
    """Drift meets all points alike."""
    machine = Machine(_valley((4, 0)), slowness=lambda seconds: math.exp(seconds / 4))
    found = _search(machine)
    assert found.winner == (4, 0)
    assert found.warnings


def test_noise_is_no_drift() -> None:
    """Thirds of a steady machine differ by chance alone."""
    drifts = [
        _search(Machine(EQUAL, noise=0.08, seed=seed), "random", seed=seed, budget=4).drift
        for seed in range(100)
    ]
    assert sum(drift > 0.05 for drift in drifts) <= 4


def test_short_blocks_get_more_rounds() -> None:
    """Up to three times as many, for one and a half seconds."""
    wanted = {SAMPLE_SECONDS: 15, SAMPLE_SECONDS / 10: 45}
    assert {each: _final_of(each) for each in wanted} == wanted


def _final_of(block_seconds: float) -> int:
    machine = Machine(_valley((4, 0)))
    block = machine.sample

    def shorter(point: Point) -> float:
        seconds = block(point)
        machine.spent_seconds += block_seconds - SAMPLE_SECONDS
        return seconds

    machine.sample = shorter  # type: ignore[method-assign]
    return len(_search(machine).final_seconds)


def test_failures_survive() -> None:
    """What fails is recorded, told to the strategy, and never wins; in the final, too."""
    failures = {(4, 0): ("wrong result", 0), (4, 1): ("tired", 7)}
    found = _search(Machine(_valley((4, 0)), failures=failures), "genetic", budget=len(SPACE))
    kept = {one.point: one for one in found.evaluations}
    assert kept[4, 0].failure == "wrong result"
    assert kept[4, 0].score is None
    assert (4, 1) not in found.finalists
    assert found.winner in {(3, 0), (5, 0)}
    assert len(found.final_seconds) == 15


def test_all_others_fail() -> None:
    """Then the default is kept, and not as something that was found out."""
    failures = {point: ("no", 0) for point in SPACE.points if point != BASELINE}
    found = _search(Machine(EQUAL, failures=failures))
    assert found.winner == BASELINE
    assert found.decision is None
    assert found.warnings


def test_remembered_winners_take_part() -> None:
    """In the final, however they did; what is no point of the space does not."""
    times = _valley((4, 0)) | {(0, 1): 1.4e-3}
    found = _search(Machine(times), remembered=[(0, 1), (99, 0)])
    assert (0, 1) in found.finalists
    assert (99, 0) not in found.finalists
    assert len(found.finalists) == 6


@pytest.mark.parametrize("at", [0, 1, 7, 40, 90, 110])
def test_interruption_keeps_what_there_is(at: int) -> None:
    """Wherever Ctrl-C is pressed; the winner is the default until a final has proved another."""
    machine = Machine(_valley((4, 0)), interrupt_at=at)
    found = _search(machine)
    assert found.interrupted
    assert "interrupted" in found.warnings[0]
    blocks = sum(len(one.log_ratios) for one in found.evaluations)
    rounds = len(machine.repetitions)
    assert blocks > 0 or at < len(SPACE)
    if found.decision is None or len(found.final_seconds) < 7:
        assert found.winner == BASELINE
    assert rounds == len(machine.repetitions)
    json.dumps(asdict(found))


def test_time_is_kept() -> None:
    """The search leaves the final its time; both end in time, by at most one block."""
    for seconds in (0.5, 1.0, 2.0, 4.0):
        found = _search(Machine(_valley((4, 0), 3)), "random", budget=len(SPACE), seconds=seconds)
        assert found.kernel_seconds <= seconds + 2 * SAMPLE_SECONDS
        assert found.cut_short == (len(found.evaluations) < len(SPACE) or seconds < 1)
    assert found.winner == (4, 0)
    assert not found.warnings


def test_short_time_has_fewer_finalists_not_fewer_rounds() -> None:
    """A call takes a third of a second: the best still meets the default often enough."""
    times = {point: 500 * seconds for point, seconds in _valley((4, 0)).items()}
    found = _search(Machine(times, noise=0.005), "random", seconds=16.0)
    assert found.cut_short
    assert len(found.finalists) == 2
    assert len(found.final_seconds) >= 7
    assert found.winner != BASELINE
    assert times[found.winner] < times[BASELINE]


def test_no_time_at_all() -> None:
    """One call takes longer than there is: the default, and no claim."""
    times = dict.fromkeys(SPACE.points, 10.0)
    found = _search(Machine(times), seconds=5.0)
    assert found.winner == BASELINE
    assert found.cut_short
    assert found.decision is None
    assert "0 repetitions" in found.warnings[0]


def test_equal_seeds_decide_alike() -> None:
    """The record too, but for the optimiser's seconds."""
    one, two = (_search(Machine(_valley((4, 0)), 0.03, seed=5), "genetic") for _ in range(2))
    assert asdict(one) == asdict(two)
    other = _search(Machine(_valley((4, 0)), 0.03, seed=5), "genetic", seed=1)
    assert asdict(other) != asdict(one)


def test_successive_halving_pools_its_blocks() -> None:
    """A point that is asked for again is judged by all its blocks."""
    found = _search(Machine(_valley((4, 0))), "successive-halving")
    most = max(found.evaluations, key=lambda one: len(one.log_ratios))
    assert len(most.log_ratios) > 5
    assert len(found.evaluations) == len({one.point for one in found.evaluations})


class Scripted:
    """A strategy that asks what it is told to, and keeps what it is told."""

    def __init__(self, *batches: list[Trial]) -> None:
        self._batches = list(batches)
        self.told: list[tuple[Point, float | None]] = []

    def ask(self) -> list[Trial]:
        return self._batches.pop(0) if self._batches else []

    def tell(self, point: Point, score: float | None) -> None:
        self.told.append((point, score))


def _scripted(machine: Machine, *batches: list[Trial]) -> tuple[Search, Scripted]:
    strategy = Scripted(*batches)
    rng = np.random.default_rng(0)
    return search(SPACE, machine, strategy, BASELINE, rng=rng, clock=machine.clock), strategy


def test_a_batch_is_judged_by_the_best_of_all_batches() -> None:
    """What is no better than the default is left at once where a point is twice as fast."""
    machine = Machine(EQUAL | {(0, 0): 0.4e-3})
    batches = [[Trial(point, 5)] for point in ((0, 0), (5, 0), (0, 0))]
    found, _ = _scripted(machine, *batches)
    kept = {one.point: one for one in found.evaluations}
    assert kept[5, 0].dropped
    assert len(kept[5, 0].log_ratios) == 1


def test_scores_are_of_all_blocks() -> None:
    """Of a point that is asked for again, the first race's blocks count too."""
    machine = Machine(EQUAL, noise=0.02, failures={(1, 0): ("no", 0)})
    batches = [[Trial((0, 0), 3)], [Trial((0, 0), 4), Trial((1, 0), 1)]]
    found, strategy = _scripted(machine, *batches)
    ratios = found.evaluations[0].log_ratios
    assert len(ratios) == 7
    expected = [((0, 0), np.median(ratios[:3])), ((0, 0), np.median(ratios)), ((1, 0), None)]
    assert strategy.told == expected


def test_events() -> None:
    """After each block: what was measured so far, and the best."""
    events: list[Event] = []
    machine = Machine(_valley((4, 0)))
    found = _search(machine, on_event=events.append)
    assert len(events) == machine.taken.total()
    assert [e.phase for e in events] == sorted([e.phase for e in events], reverse=True)
    searched = [event for event in events if event.phase == "search"]
    assert [e.done for e in searched] == sorted(e.done for e in searched)
    assert searched[-1].done <= len(SPACE)
    assert events[-1].best == found.winner
    assert events[-1].ratio == pytest.approx(_valley((4, 0))[4, 0] / 0.001, rel=0.3)
    assert events[-1].done == 14
