"""Strategies: what all of them promise, what each is for, and the model of `genetic`."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattn import ArgumentError
from fastattn.tuner.space import Gene, Point, Space, study
from fastattn.tuner.strategies import Strategy, _model, make
from fastattn.tuner.strategies._model import Model
from perf.tuner_replay.strategies import STRATEGIES

Score = Callable[[Point], float | None]
names = pytest.mark.parametrize("name", STRATEGIES)


def _space(*sizes: int, invalid: Callable[[Point], bool] = lambda point: False) -> Space:
    """Ordered genes of so many values, the last one unordered."""
    genes = [Gene(f"g{at}", tuple(2**i for i in range(n)), True, "") for at, n in enumerate(sizes)]
    genes[-1] = Gene("last", tuple("abcdefgh"[: sizes[-1]]), False, "")
    points = itertools.product(*(range(n) for n in sizes))
    return Space("toy", tuple(genes), tuple(point for point in points if not invalid(point)))


def _play(strategy: Strategy, score: Score, reverse: bool = False) -> list[list[Point]]:
    """Batches that it asks for, each told in order or in reverse."""
    batches = []
    while trials := strategy.ask():
        batches.append([trial.point for trial in trials])
        for point in reversed(batches[-1]) if reverse else batches[-1]:
            strategy.tell(point, score(point))
    assert strategy.ask() == []
    return batches


def _valley(space: Space, seed: int, rugged: float = 0.0) -> dict[Point, float]:
    """Scores with one valley, whose place along a gene follows the next gene."""
    rng = np.random.default_rng(seed)
    sizes = [len(gene.values) for gene in space.genes]
    at = rng.uniform(0, np.maximum(np.array(sizes) - 1, 0.5))
    depth, lean = rng.uniform(0.05, 0.3, len(sizes)), rng.uniform(-0.2, 0.2, len(sizes))
    kinds = rng.permutation(sizes[-1]) * rng.uniform(0.1, 0.7)
    away = space.grid - at + lean * np.roll(space.grid, 1, axis=1)
    total = (depth * np.abs(away) ** 1.5)[:, :-1].sum(axis=1) + kinds[space.grid[:, -1]]
    total += rugged * rng.standard_normal(len(space))
    return dict(zip(space.points, total.tolist(), strict=True))


def test_registry() -> None:
    """By name; others are refused."""
    assert set(STRATEGIES) == {
        *("genetic", "genetic-plain", "successive-halving", "local"),
        *("random", "exhaustive"),
    }
    for name, strategy in STRATEGIES.items():
        assert name == strategy.NAME
        assert strategy.SUMMARY
    with pytest.raises(ArgumentError, match=r"`strategy`.*'genetic'"):
        make("generic", study(), 18, 0)


@names
@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    budget=st.integers(1, 40),
    blocks=st.integers(1, 8),
    seed=st.integers(0, 99),
    fails=st.sampled_from([0.0, 0.3, 1.0]),
    remembered=st.integers(0, 3),
)
def test_promises(
    name: str,
    sizes: list[int],
    budget: int,
    blocks: int,
    seed: int,
    fails: float,
    remembered: int,
) -> None:
    """Valid points, none twice, within the budget; failures are borne; equal tells, equal asks."""
    space = _space(*sizes, invalid=lambda point: sum(point) % 5 == 4)
    draw = random.Random(seed)
    lengths = {p: None if draw.random() < fails else draw.randrange(9) for p in space.points}
    start = [*draw.choices(space.points, k=remembered), (99,) * len(sizes)]
    strategy = STRATEGIES[name](space, budget, seed, start, blocks)
    spent, seen = 0, set()
    halving = name == "successive-halving"
    while trials := strategy.ask():
        points = [trial.point for trial in trials]
        assert len(set(points)) == len(points)
        assert set(points) <= set(space.points)
        assert halving or not seen & set(points)
        assert halving or {trial.samples for trial in trials} == {blocks}
        seen |= set(points)
        spent += sum(trial.samples for trial in trials)
        assert spent <= budget * blocks
        for point in points:
            strategy.tell(point, lengths[point])
    if not halving:
        assert len(seen) == min(budget, len(space))
    told = {point: lengths[point] for point in seen if lengths[point] is not None}
    best = next(iter(strategy.ranked()), None)
    assert (best is None) == (not told)
    if told and not halving:
        assert told[best] == min(told.values())

    orders = [
        _play(STRATEGIES[name](space, budget, seed, start, blocks), lengths.get, reverse)
        for reverse in (False, True)
    ]
    assert orders[0] == orders[1]
    assert {point for batch in orders[0] for point in batch} == seen


@names
def test_seeds_differ(name: str) -> None:
    """Another seed, another search; but `exhaustive` has nothing to draw."""
    scores = _valley(study(), 0)
    runs = [_play(STRATEGIES[name](study(), 18, seed), scores.get) for seed in range(4)]
    assert all(run == runs[0] for run in runs) == (name == "exhaustive")


@names
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None])
def test_what_has_no_score_is_a_failure(name: str, score: float | None) -> None:
    """Not the best, whatever the number; a later score mends it."""
    strategy = STRATEGIES[name](study(), 18, 0, [(0, 0, 0), (1, 1, 1)])
    point, other = (trial.point for trial in strategy.ask()[:2])
    strategy.tell(point, 5.0)
    assert strategy.ranked()[0] == point
    strategy.tell(point, score)
    assert not strategy.ranked()
    strategy.tell(other, 7.0)
    assert strategy.ranked()[0] == other
    strategy.tell(point, 6.0)
    assert strategy.ranked()[0] == point


@names
def test_start_comes_first(name: str) -> None:
    """For who uses it: in the order given, but for points of other spaces."""
    start = [(2, 1, 0), (9, 9, 9), (0, 3, 1), (2, 1, 0)]
    batches = _play(STRATEGIES[name](study(), 18, 3, start), _valley(study(), 0).get)
    without = _play(STRATEGIES[name](study(), 18, 3), _valley(study(), 0).get)
    if name in ("random", "genetic-plain"):
        assert batches == without
    else:
        assert batches[0][:2] == [(2, 1, 0), (0, 3, 1)]


def test_exhaustive_is_one_batch() -> None:
    """All points raced together."""
    batches = _play(STRATEGIES["exhaustive"](study(), 40, 0), lambda point: 0.0)
    assert batches == [list(study().points)]


@pytest.mark.parametrize(("budget", "chosen"), [(31, "genetic"), (32, "exhaustive")])
def test_auto(budget: int, chosen: str) -> None:
    """Exhaustive where the space fits the budget."""
    assert type(make("auto", study(), budget, 0)) is STRATEGIES[chosen]


def test_halving() -> None:
    """Half as many points and twice as many blocks each time; the better half stays."""
    space, scores = study(), _valley(study(), 4, rugged=0.3)
    strategy = STRATEGIES["successive-halving"](space, 18, 0, [(3, 1, 0)])
    asked, blocks = [], []
    while trials := strategy.ask():
        asked.append({trial.point for trial in trials})
        blocks.append({trial.samples for trial in trials})
        for trial in trials:
            strategy.tell(trial.point, scores[trial.point])
    assert [len(points) for points in asked] == [30, 15, 7]
    assert blocks == [{1}, {2}, {4}]
    for points, better in itertools.pairwise(asked):
        assert better == set(sorted(points, key=scores.__getitem__)[: len(better)])
    assert strategy.ranked()[0] == min(asked[-1], key=scores.__getitem__)


def test_halving_believes_the_longer_race() -> None:
    """One lucky block does not make a winner."""
    strategy = STRATEGIES["successive-halving"](study(), 18, 0)
    while trials := strategy.ask():
        last = [trial.point for trial in trials]
        for at, trial in enumerate(trials):
            strategy.tell(trial.point, at + 100.0 * trial.samples)
    assert strategy.ranked()[0] == last[0]


def test_local_descends_into_the_valley() -> None:
    """Where genes do not interact, one descent from the default finds the bottom."""
    space = _space(6, 6, 6, 3)

    def score(point: Point) -> float:
        return abs(point[0] - 4) + abs(point[1] - 1) + 0.3 * abs(point[2] - 2) + point[3] % 2

    strategy = STRATEGIES["local"](space, 40, 0, [(0, 5, 5, 1)])
    batches = _play(strategy, score)
    assert batches[0] == [(0, 5, 5, 1)]
    assert score(strategy.ranked()[0]) == 0
    assert any(len(batch) > 1 for batch in batches)


def test_local_starts_again() -> None:
    """From the bottom of a valley to a point far from what was seen, and on from there."""
    space = _space(9, 9, 2)
    batches = _play(STRATEGIES["local"](space, 60, 0, [(0, 0, 0)]), lambda point: float(sum(point)))
    following = iter(batches[1:])
    known = {(0, 0, 0)}
    for batch in following:
        if not known & set(space.neighbours(batch[0])):
            break
        known |= set(batch)
    assert len(batch) == 1
    assert set(next(following)) <= set(space.neighbours(batch[0]))


@pytest.mark.parametrize("rugged", [0.0, 0.02])
def test_genetic_finds_the_best_of_the_study_space(rugged: float) -> None:
    """In 18 of 32 points, almost always; random points would in 56 % of searches."""
    misses = 0
    for seed in range(60):
        scores = _valley(study(), seed, rugged)
        strategy = STRATEGIES["genetic"](study(), 18, seed, [(3, 1, 0)])
        _play(strategy, scores.get)
        misses += scores[strategy.ranked()[0]] > min(scores.values()) + 0.02
    assert misses <= 1


def test_genetic_finds_the_best_of_a_large_space() -> None:
    """In 50 of 792 points, and more often than the plain one, a descent, and random points."""
    space = _space(6, 8, 6, 3, invalid=lambda point: point[3] == 2 and point[2] > 1)
    found = dict.fromkeys(("genetic", "genetic-plain", "local", "random"), 0)
    for name, seed in itertools.product(found, range(16)):
        scores = _valley(space, seed, 0.02)
        strategy = STRATEGIES[name](space, 50, seed, [(5, 7, 0, 0)])
        _play(strategy, scores.get)
        found[name] += scores[strategy.ranked()[0]] <= min(scores.values()) + 0.02
    assert found["genetic"] >= 15
    assert found["genetic"] > max(found["genetic-plain"], found["local"], found["random"])


def test_genetic_goes_round_failures() -> None:
    """Half of the space cannot be measured: the best of the rest is found."""
    space = _space(6, 8, 6, 2)
    hits = 0
    for seed in range(10):
        scores = {p: s for p, s in _valley(space, seed).items() if (p[0] + p[1]) % 2}
        strategy = STRATEGIES["genetic"](space, 50, seed, [(5, 7, 0, 0)])
        _play(strategy, scores.get)
        hits += scores[strategy.ranked()[0]] <= min(scores.values()) + 0.02
    assert hits >= 8


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_genetic_leaves_a_default_that_is_far_off(slower: float) -> None:
    """One value of an ordered gene, the default's, is 3 or 20 times slower than those beside it."""
    misses = 0
    for seed in range(1000, 1150):
        valley = _valley(study(), seed, 0.02)
        scores = {point: score + slower * (point[1] == 1) for point, score in valley.items()}
        strategy = STRATEGIES["genetic"](study(), 18, seed - 1000, [(3, 1, 0)])
        _play(strategy, scores.get)
        misses += scores[strategy.ranked()[0]] > min(scores.values()) + 0.02
    assert misses <= 5  # 96.4 % are found


@pytest.mark.timing
def test_genetic_takes_little_time() -> None:
    """All decisions of 18 evaluations in a space of 1,000 points."""
    space = _space(10, 10, 5, 2)
    scores = _valley(space, 0)
    spent = []
    for seed in range(3):
        begin = time.thread_time()
        _play(STRATEGIES["genetic"](space, 18, seed, [(0, 0, 0, 0)]), scores.get)
        spent.append(time.thread_time() - begin)
    assert min(spent) <= 0.1


def test_model_foretells_smooth_effects_and_pairs() -> None:
    """From 40 of 480 points, far better than the mean does; ordered genes and unordered."""
    space = _space(5, 8, 6, 2)
    truth = np.array(list(_valley(space, 3).values()))
    places = random.Random(0).sample(range(len(space)), 40)
    mean, deviation = Model(space).fit(places, truth[places])
    assert np.abs(mean - truth).mean() < 0.15 * np.abs(truth - truth.mean()).mean()
    assert np.corrcoef(mean, truth)[0, 1] > 0.98
    rest = np.setdiff1d(np.arange(len(space)), places)
    assert deviation[places].mean() < 0.7 * deviation[rest].mean()
    assert (deviation >= 0).all()


def test_model_tells_what_it_is_told() -> None:
    """The scale and the origin of the scores do not matter; nor do genes of one value."""
    space = _space(6, 1, 3)
    places, scores = [0, 5, 9, 12, 17], np.array([0.3, 0.1, 0.5, 0.2, 0.4])
    mean, deviation = Model(space).fit(places, scores)
    moved, larger = Model(space).fit(places, 10 * scores - 7)
    np.testing.assert_allclose(moved, 10 * mean - 7)
    np.testing.assert_allclose(larger, 10 * deviation)
    assert (mean[places].argmin(), mean[places].argmax()) == (1, 2)
    flat, _ = Model(space).fit(places, np.full(5, 2.0))
    np.testing.assert_allclose(flat, 2.0)


def test_model_agrees_with_plain_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The equations of the kernel are those of ridge regression on explicit features."""
    for name, only in (("_OCTAVES", (None,)), ("_PAIRS", (0.3,)), ("_RIDGES", (0.1,))):
        monkeypatch.setattr(_model, name, only)
    space = _space(5, 2, 3)
    at = np.arange(5) / 2 - 1
    bend = at**2 - (at**2).mean()
    own: list[Any] = [
        np.hstack([at[:, None], bend[:, None], 0.3**0.5 * np.eye(5)])[space.grid[:, 0]],
        np.hstack([[[-1.0], [1.0]], 0.3**0.5 * np.eye(2)])[space.grid[:, 1]],
        np.eye(3)[space.grid[:, 2]],
    ]
    pairs = [
        (a[:, :, None] * b[:, None, :]).reshape(len(space), -1)
        for a, b in itertools.combinations(own, 2)
    ]
    features = np.hstack([np.ones((len(space), 1)), *own, *(0.3**0.5 * pair for pair in pairs)])
    places = [0, 3, 8, 11, 16, 20, 29]
    known = features[places]
    features = features / np.sqrt((known**2).sum(axis=1).mean())
    scores = np.array([0.3, 0.1, 0.5, 0.2, 0.4, 0.9, 0.6])
    y = (scores - scores.mean()) / scores.std()
    x = features[places]
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    mean, deviation = Model(space).fit(places, scores)
    np.testing.assert_allclose(mean, scores.mean() + scores.std() * (features @ weights))
    spread = features @ np.linalg.inv(x.T @ x / 0.1 + np.eye(x.shape[1])) * features
    size = y @ np.linalg.inv(x @ x.T + 0.1 * np.eye(len(y))) @ y / len(y)
    np.testing.assert_allclose(deviation, scores.std() * np.sqrt(size * spread.sum(axis=1)))
