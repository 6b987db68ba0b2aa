"""The decision of the paired driver: exact statistics, blind discards, verdicts, statuses."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf import summary
from perf.paired import rule
from perf.paired.engine import (
    Comparison,
    SourceError,
    Trouble,
    compare,
)
from perf.paired.rule import Round, Rule, Sample, judge, summarise

# --- Exact statistics ------------------------------------------------------------------


def test_tail_counts_tosses() -> None:
    tosses = list(itertools.product((0, 1), repeat=6))
    for most in range(7):
        assert summary.tail(most, 6) == sum(sum(t) <= most for t in tosses) / 64


@pytest.mark.parametrize("count", [1, 5, 6, 12, 17, 33])
def test_interval_covers_as_often_as_it_says(count: int) -> None:
    """On a skewed distribution, with median log 2."""
    rng, found, times = random.Random(count), 0, 3000
    for _ in range(times):
        interval = summary.sign_interval([rng.expovariate(1) for _ in range(count)], 0.95)
        found += interval.low <= math.log(2) <= interval.high
    low, high = summary.clopper_pearson(found, times, 0.999)
    assert low <= interval.coverage <= high
    assert (interval.coverage >= 0.95) == (count >= 6)


def test_interval_is_the_shortest_that_covers() -> None:
    interval = summary.sign_interval(range(12), 0.95)
    assert (interval.low, interval.high) == (2, 9)
    assert interval.coverage == 1 - 2 * (1 + 12 + 66) / 4096
    assert summary.sign_interval(range(12), 0.99).low == 1
    assert summary.sign_interval([], 0.95).high == math.inf


def test_sign_test() -> None:
    assert summary.sign_p([0.1] * 10) == 2 / 1024
    assert summary.sign_p([-0.1] * 9 + [5]) == 2 * 11 / 1024
    assert summary.sign_p([0.1] * 9 + [0.0]) == 2 * 11 / 1024  # a zero does not help
    assert summary.sign_p([1, -1]) == 1


def test_holm() -> None:
    assert summary.holm([0.01, 0.04, 0.03], 3) == pytest.approx([0.03, 0.06, 0.06])
    assert summary.holm([0.01, 0.02], 10) == pytest.approx([0.1, 0.18])
    assert summary.holm([0.5], 4) == [1]
    assert summary.holm([], 4) == []


def test_bounds_of_counts() -> None:
    assert summary.clopper_pearson(0, 300) == pytest.approx((0, 1 - 0.025 ** (1 / 300)), abs=1e-9)
    assert summary.clopper_pearson(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)
    assert summary.clopper_pearson(7, 7)[1] == 1
    low, high = summary.clopper_pearson(9500, 10000)
    assert (low, high) == pytest.approx((0.94554, 0.95419), abs=2e-5)


# --- Pairs and rounds ------------------------------------------------------------------

samples = st.builds(
    Sample,
    seconds=st.floats(0.5, 2),
    wall_seconds=st.just(1.0),
    lost_seconds=st.floats(0, 0.5),
    switches=st.integers(0, 2),
    steal_ticks=st.integers(0, 1),
    by_wall=st.booleans(),
)


@given(st.lists(st.tuples(samples, samples), min_size=1, max_size=12), st.data())
def test_discards_do_not_see_which_side_is_which(
    pairs: list[tuple[Sample, Sample]], data: st.DataObject
) -> None:
    """Any pair may be turned round, and the same pairs are discarded."""
    turned = data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    other = [(b, a) if turn else (a, b) for (a, b), turn in zip(pairs, turned, strict=True)]
    assert rule.contended(other) == rule.contended(pairs)


def test_what_is_discarded() -> None:
    quiet = Sample(1.0, 1.0)
    pairs = [(quiet, quiet)] * 9
    for bad in (Sample(1.0, 1.0, steal_ticks=1), Sample(1.2, 1.0)):
        assert rule.contended([*pairs, (bad, quiet)]) == [False] * 9 + [True]
        assert rule.contended([*pairs, (quiet, bad)]) == [False] * 9 + [True]
    waited = Sample(1.0, 1.0, lost_seconds=0.3, switches=2)
    assert not any(rule.contended([*pairs, (quiet, waited)]))  # the CPU's time has no wait in it
    assert rule.contended([*pairs, (quiet, replace(waited, by_wall=True))])[-1]
    assert not any(rule.contended([*pairs, (quiet, Sample(1.02, 1.0))]))
    slower = [(Sample(1.0, 1.0), Sample(1.6, 1.0))] * 9 + [(Sample(1.0, 1.0), Sample(1.0, 1.0))]
    assert not any(rule.contended(slower))  # a large effect is no outlier


def test_a_round_is_the_median_of_log_ratios() -> None:
    ratios = (1.1, 1.2, 1.1, 1.0, 1.11)
    pairs = [(Sample(1.0, 2.0), Sample(ratio, 2.0, lost_seconds=1.0)) for ratio in ratios]
    one = summarise(pairs, Rule())
    assert one.log_ratio == pytest.approx(math.log(1.1))
    assert (one.pairs, one.discarded, one.lost_share) == (5, 1, 0.25)
    assert (one.base_seconds, one.head_seconds) == (1.0, 1.1)


def test_a_round_that_loses_too_much_says_nothing() -> None:
    good, stolen = (Sample(1, 1), Sample(1, 1)), (Sample(1, 1), Sample(1, 1, steal_ticks=1))
    assert summarise([good] * 5 + [stolen] * 5, Rule()).log_ratio == 0
    assert summarise([good] * 4 + [stolen] * 5, Rule()).log_ratio is None
    assert summarise([good] * 3, Rule()).log_ratio is None  # too few in any case
    assert summarise([stolen] * 8, Rule()).log_ratio is None


# --- Verdicts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "p", "word"),
    [
        ([0.001 * i for i in range(-8, 8)], 1e-9, "same"),  # however small p is
        ([0.05] * 16, 0.001, "worse"),
        ([-0.05] * 16, 0.001, "better"),
        ([0.05] * 16, 0.02, "unresolved"),  # not sure enough
        ([0.05] * 16, None, "unresolved"),  # screening calls nothing worse
        ([0.015] * 12 + [0.05] * 4, 0.001, "unresolved"),  # sure, but the band's width
        ([0.0] * 5, None, "unresolved"),  # too few for the confidence
        ([], 1.0, "unresolved"),
    ],
)
def test_words(values: list[float], p: float | None, word: str) -> None:
    verdict = judge(values, p, Rule())
    assert verdict.word == word
    assert (verdict.reason != "") == (word == "unresolved")


def test_rounds_suffice_for_a_verdict_with_one_to_the_contrary() -> None:
    for family in (1, 8, 40):
        wanted = Rule().confirming(family)
        p = summary.sign_p([0.1] * (wanted - 1) + [-0.1])
        assert summary.holm([p], family)[0] * Rule().looks <= Rule().alpha
        p = summary.sign_p([0.1] * (wanted - 2) + [-0.1])
        assert summary.holm([p], family)[0] * Rule().looks > Rule().alpha


class Simulated:
    """Workers without processes: drift, a layout for each process, neighbours that take time."""

    def __init__(
        self, effects: dict[str, float], noise: float, seed: int, neighbours: float = 0.05
    ) -> None:
        self.troubles: dict[str, Trouble] = {}
        self.asked: list[tuple[str, ...]] = []
        self._effects, self._noise, self._neighbours = effects, noise, neighbours
        self._random = random.Random(seed)

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        self.asked.append(tuple(names))
        return {name: self._round(self._effects[name]) for name in names}

    def _round(self, effect: float) -> Round:
        layout = [math.exp(self._random.gauss(0, self._noise / math.sqrt(2))) for _ in "ab"]
        pairs = []
        for index in range(8):
            drift = 1 + 0.3 * index / 8
            a, b = (self._turn(drift * side) for side in (layout[0], layout[1] * (1 + effect)))
            pairs.append((a, b))
        return summarise(pairs, Rule())

    def _turn(self, seconds: float) -> Sample:
        seconds *= math.exp(self._random.gauss(0, 0.02))
        if self._random.random() < self._neighbours:  # half of them leave a trace
            return Sample(1.5 * seconds, 1.0, steal_ticks=self._random.randrange(2))
        return Sample(seconds, 1.0)


NAMES = [f"cell {index}" for index in range(5)]


def run(effects: dict[str, float], noise: float, seed: int) -> Comparison:
    return compare(Simulated(dict.fromkeys(NAMES, 0.0) | effects, noise, seed), NAMES, Rule())


def test_equal_sides_raise_no_alarm() -> None:
    """180 whole suites, quiet and noisy ones; more than 6 alarms are unlikely at 1 %."""
    found = [run({}, noise, seed) for noise in (0.005, 0.02, 0.05) for seed in range(60)]
    assert sum(one.count("worse") + one.count("better") > 0 for one in found) <= 6
    assert sum(one.status == 1 for one in found) <= 3
    quiet = found[:60]
    assert sum(one.count("same") for one in quiet) > 0.97 * 60 * len(NAMES)


@pytest.mark.parametrize(("effect", "noise", "least"), [(0.05, 0.02, 38), (0.10, 0.02, 40)])
def test_slowdowns_are_found(effect: float, noise: float, least: int) -> None:
    """In one cell of five; the others stay as they are."""
    found = [run({"cell 3": effect}, noise, seed) for seed in range(40)]
    assert sum(one.verdicts["cell 3"].word == "worse" for one in found) >= least
    assert sum(one.status == 1 for one in found) >= least
    faster = [run({"cell 3": 1 / (1 + effect) - 1}, noise, seed) for seed in range(20)]
    assert sum(one.verdicts["cell 3"].word == "better" for one in faster) >= 19
    assert all(one.status != 1 for one in faster)


# --- The course of a comparison ----------------------------------------------------------


class Told:
    """Gives the rounds it is told: a log ratio for each, None for one that does not count."""

    def __init__(self, rounds: dict[str, list[float | None]]) -> None:
        self.troubles: dict[str, Trouble] = {}
        self._rounds = {name: iter(itertools.cycle(many)) for name, many in rounds.items()}
        self.calls = 0

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        self.calls += 1
        return {name: Round(next(self._rounds[name]), 1.0, 1.0, 10, 1) for name in names}


def test_the_screening_never_counts() -> None:
    """Six rounds tell of 10 %, all fresh ones of nothing; and the other way round."""
    fresh = Rule().confirming(1)
    one = compare(Told({"a": [0.1] * 6 + [0.0] * 90}), ["a"], Rule())
    assert one.verdicts["a"].word == "same"
    assert (one.verdicts["a"].rounds, one.verdicts["a"].screened) == (fresh, False)
    one = compare(Told({"a": [0.03, -0.03] * 3 + [0.1] * 90}), ["a"], Rule())
    assert one.verdicts["a"].word == "worse"
    assert one.verdicts["a"].ratio == pytest.approx(math.exp(0.1))


def test_what_the_screening_clears_is_not_confirmed() -> None:
    source = Told({"a": [0.001], "b": [0.1]})
    one = compare(source, ["a", "b"], Rule())
    assert (one.verdicts["a"].word, one.verdicts["a"].rounds) == ("same", 6)
    assert one.verdicts["a"].screened
    assert "a" not in one.confirming
    assert source.calls == 6 + Rule().confirming(1)  # the second look was not needed
    assert one.status == 1


def test_a_second_look_has_more_rounds() -> None:
    told: list[float | None] = [0.03] * 10 + [-0.03] * 3  # undecided, then plain
    first = Rule().confirming(1)
    one = compare(Told({"a": [0.1] * 6 + told[:first] + [0.03] * 90}), ["a"], Rule())
    assert one.verdicts["a"].rounds == 2 * first
    assert one.verdicts["a"].p is not None


def test_rounds_that_say_nothing_are_replaced_up_to_a_point() -> None:
    one = compare(Told({"a": [0.1, 0.1, None]}), ["a"], Rule())
    assert one.verdicts["a"].word == "worse"
    one = compare(Told({"a": [0.1, None, None], "b": [0.0]}), ["a", "b"], Rule())
    assert one.verdicts["a"].word == "unresolved"
    assert "contended" in one.verdicts["a"].reason
    assert one.status == 0  # b is resolved
    one = compare(Told({"a": [None]}), ["a"], Rule())
    assert (one.verdicts["a"].word, one.status) == ("unresolved", 2)
    assert one.discarded("a") == 0.1


class Stopping(Told):
    """Ends in the midst."""

    def __init__(self, rounds: dict[str, list[float | None]], after: int, error: BaseException):
        super().__init__(rounds)
        self._after, self._error = after, error

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        if self.calls == self._after:
            raise self._error
        return super().round(names)


@pytest.mark.parametrize("after", [0, 3, 6, 10, 25])
def test_an_interruption_keeps_what_there_is(after: int) -> None:
    told: dict[str, list[float | None]] = {"a": [0.001], "b": [0.1], "c": [0.03, -0.03]}
    one = compare(Stopping(told, after, KeyboardInterrupt()), list(told), Rule())
    assert one.stopped == "interrupted"
    assert set(one.verdicts) == set(told)
    assert one.verdicts["c"].reason == "interrupted"
    assert one.verdicts["a"].word == ("unresolved" if after < 6 else "same")
    looked = after >= 6 + Rule().confirming(2)
    assert one.verdicts["b"].word == ("worse" if looked else "unresolved")
    assert one.status == (1 if looked else 130)


def test_the_end_of_the_rounds_and_of_the_time() -> None:
    error = SourceError("base: does not start")
    one = compare(Stopping({"a": [0.0]}, 2, error), ["a"], Rule())
    assert (one.stopped, one.status) == ("base: does not start", 2)
    assert one.verdicts["a"].rounds == 2
    clock = itertools.count()
    one = compare(Told({"a": [0.0]}), ["a"], Rule(), end=4, clock=lambda: float(next(clock)))
    assert (one.stopped, one.verdicts["a"].rounds) == ("out of time", 4)


class Troubled(Told):
    """One cell gets into trouble."""

    def __init__(self, rounds: dict[str, list[float | None]], kind: str, after: int):
        super().__init__(rounds)
        self._kind, self._after = kind, after

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        found = super().round(names)
        if self.calls > self._after and "bad" in found:
            self.troubles["bad"] = Trouble(self._kind, "head: no")
            del found["bad"]
        return found


@pytest.mark.parametrize("after", [0, 2, 8])
@pytest.mark.parametrize(("kind", "status"), [("cannot", 0), ("failed", 2), ("wrong", 2)])
def test_a_cell_in_trouble_does_not_stop_the_others(kind: str, status: int, after: int) -> None:
    source = Troubled({"bad": [0.1], "good": [0.0]}, kind, after)
    one = compare(source, ["bad", "good"], Rule())
    assert one.status == status
    assert one.verdicts["good"].word == "same"
    assert "bad" not in one.verdicts
    assert one.troubles["bad"].text == "head: no"
