"""Races against a baseline: turns, ratios, losers, failures, the end of time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from simulated import Machine, space

from fastattn.tuner.measure import TrialError
from fastattn.tuner.race import Race
from fastattn.tuner.record import Outcome
from fastattn.tuner.space import Point
from fastattn.tuner.strategies import Trial

POINTS = space().points
BASELINE = POINTS[0]


def _trials(points: tuple[Point, ...], samples: int = 5) -> list[Trial]:
    return [Trial(point, samples) for point in points]


def race(source: Machine, trials: list[Trial], **more: Any) -> dict[Point, Outcome]:
    """Outcomes of a whole race against `BASELINE`."""
    rng = more.pop("rng", _rng())
    running = Race(source, trials, BASELINE, rng, **more)
    running.run()
    return running.outcomes()


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_rounds_are_shared_with_the_baseline() -> None:
    """Each round has one block of each point and one of the baseline, whoever asked for it."""
    machine = Machine(dict.fromkeys(POINTS, 1e-3), noise=0.001)
    outcomes = race(machine, _trials(POINTS[:4]))
    assert list(outcomes) == list(POINTS[:4])
    assert machine.taken == dict.fromkeys(POINTS[:4], 5)
    assert all(sorted(turns) == sorted(POINTS[:4]) for turns in machine.repetitions)
    assert outcomes[BASELINE] == Outcome((0.0,) * 5, False, None)
    assert all(len(one.log_ratios) == 5 for one in outcomes.values())


def test_order_of_turns_is_random() -> None:
    """Any of four may be first; the same seed gives the same turns."""
    machine, again = (Machine(dict.fromkeys(POINTS, 1e-3), noise=0.0) for _ in range(2))
    for one in (machine, again):
        race(one, _trials(POINTS[:4], 40), rng=_rng(3))
    first = Counter(turns[0] for turns in machine.repetitions)
    assert len(first) == 4
    assert max(first.values()) < 20
    assert machine.repetitions == again.repetitions


def test_a_ratio_is_of_one_round() -> None:
    """What a round was like cancels: a machine that slows down changes no ratio."""
    times = dict.fromkeys(POINTS, 1e-3) | {POINTS[1]: 1.1e-3}
    slower = Machine(times, noise=0.0, slowness=lambda seconds: 2.0 ** (seconds // 0.04))
    outcomes = race(slower, _trials(POINTS[1:2]))
    assert np.allclose(outcomes[POINTS[1]].log_ratios, math.log(1.1))
    assert outcomes[POINTS[1]].score == pytest.approx(math.log(1.1))


@pytest.mark.parametrize(("factor", "blocks"), [(2.1, 1), (1.9, 3), (1.3, 3), (1.15, 5)])
def test_losers_are_left_behind(factor: float, blocks: int) -> None:
    """After one block beyond twice the best, after three beyond 1.2 times; others stay."""
    times = dict.fromkeys(POINTS, 1e-3) | {POINTS[1]: factor * 1e-3}
    machine = Machine(times, noise=0.0)
    outcome = race(machine, _trials(POINTS[1:3]))[POINTS[1]]
    assert machine.taken[POINTS[1]] == len(outcome.log_ratios) == blocks
    assert outcome.dropped == (blocks < 5)
    assert machine.taken[POINTS[2]] == 5


def test_the_best_may_be_another_than_the_baseline() -> None:
    """Of this race, or of an earlier one."""
    times = dict.fromkeys(POINTS, 1e-3) | {POINTS[1]: 4e-4}
    machine = Machine(times, noise=0.0)
    outcomes = race(machine, _trials(POINTS[1:3]))
    assert outcomes[POINTS[2]].dropped
    earlier = race(machine, _trials(POINTS[2:3]), incumbent=math.log(0.4))
    assert earlier[POINTS[2]].dropped
    assert len(earlier[POINTS[2]].log_ratios) == 1


def test_nobody_is_dropped_from_a_final() -> None:
    """Where losers stay, every round is whole."""
    times = dict.fromkeys(POINTS, 1e-3) | {POINTS[1]: 1e-2}
    race_ = Race(Machine(times), _trials(POINTS[:3], 15), BASELINE, _rng(), drop=False)
    race_.run()
    assert len(race_.repetitions) == 15
    assert all(row.keys() == set(POINTS[:3]) for row in race_.repetitions)
    assert race_.completed


def test_failures_survive() -> None:
    """A point that fails, at once or later, is told of and left; the others go on."""
    failures = {POINTS[1]: ("wrong", 0), POINTS[2]: ("tired", 2)}
    machine = Machine(dict.fromkeys(POINTS, 1e-3), failures=failures)
    outcomes = race(machine, _trials(POINTS[1:4]))
    assert outcomes[POINTS[1]] == Outcome((), False, "wrong")
    assert outcomes[POINTS[1]].score is None
    assert outcomes[POINTS[2]].failure == "tired"
    assert outcomes[POINTS[2]].score is None
    assert outcomes[POINTS[3]].failure is None
    assert len(outcomes[POINTS[3]].log_ratios) == 5


def test_without_a_control_there_is_no_race() -> None:
    """Its failure is the race's."""
    machine = Machine(dict.fromkeys(POINTS, 1e-3), failures={BASELINE: ("broken", 0)})
    with pytest.raises(TrialError, match="broken"):
        race(machine, _trials(POINTS[1:3]))


def test_a_lone_control_needs_no_block() -> None:
    """Its ratio to itself is known."""
    machine = Machine(dict.fromkeys(POINTS, 1e-3))
    assert race(machine, _trials((BASELINE,)))[BASELINE].score == 0
    assert not machine.taken


def test_the_end_of_time() -> None:
    """What was measured in the round under way gets its baseline, and counts."""
    for blocks in range(1, 9):
        machine = Machine(dict.fromkeys(POINTS, 1e-3))
        race_ = Race(machine, _trials(POINTS[1:4]), BASELINE, _rng(blocks))
        race_.run(lambda machine=machine, blocks=blocks: machine.taken.total() >= blocks)
        assert not race_.completed
        assert all(BASELINE in row for row in race_.repetitions)
        measured = sum(len(one.log_ratios) for one in race_.outcomes().values())
        assert measured + len(race_.repetitions) == machine.taken.total()
        assert machine.taken.total() <= blocks + 1


def test_who_asks_is_told() -> None:
    """`on_block` hears of each block."""
    heard: list[Point] = []
    machine = Machine(dict.fromkeys(POINTS, 1e-3))
    race(machine, _trials(POINTS[1:3]), on_sample=heard.append)
    assert heard == [point for turns in machine.repetitions for point in turns]


def test_more_blocks_for_some() -> None:
    """Each point gets what was asked for it."""
    machine = Machine(dict.fromkeys(POINTS, 1e-3), noise=0.0)
    trials = [Trial(POINTS[1], 1), Trial(POINTS[2], 4)]
    outcomes = race(machine, trials)
    assert [len(outcomes[point].log_ratios) for point in POINTS[1:3]] == [1, 4]
    assert machine.taken[BASELINE] == 4
