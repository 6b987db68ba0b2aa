"""Other tuners in place of ours: adaptors from their ask and tell to a `Strategy`.

The ``shipped`` ones keep their library's own settings.  The others are set up as by a user who
knows that evaluations are few: the default goes first, and populations can breed within the
budget.  All see the values of an ordered gene as ordered numbers.

A rival does not know which combinations mean the same call; a combination that is no point of the
space stands for the point that means the same.  What a rival proposes twice is measured twice and
counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies import Strategy, Trial
from perf.tuner_replay.replay import Make
from perf.tuner_replay.strategies import STRATEGIES

__all__ = ["RIVALS", "Adaptor", "Rival", "maker", "meant", "missing"]

_FAILED = 10.0  # log ratio that stands for a failure, for a library that knows none


def meant(space: Space, index: Point) -> Point:
    """The point that is meant by one index for each gene.

    In the space, a field that an implementation does not have is held at one value, and so is a
    field whose values all do the same.  Gene by gene, from the first on, the points are kept
    that agree, or those that are closest if none agrees.
    """
    if index in space:
        return index
    left = space.grid
    for at, gene in enumerate(space.genes):
        column = left[:, at]
        away = np.abs(column - index[at]) if gene.ordered else (column != index[at]).astype(int)
        left = left[away == away.min()]
    return tuple(left[0].tolist())


class Adaptor:
    """A strategy whose proposals come from a library.

    Parameters
    ----------
    propose : callable
        Gives the next proposal and its indices, or None when there are no more.
    report : callable
        Takes a proposal and its score.
    batch : int
        Number of proposals that are asked for at once.
    """

    def __init__(
        self,
        space: Space,
        budget: int,
        samples: int,
        propose: Callable[[], tuple[Any, Point] | None],
        report: Callable[[Any, float | None], None],
        batch: int,
    ) -> None:
        self._space, self._left, self._samples = space, budget, samples
        self._propose, self._report, self._batch = propose, report, batch
        self._pending: dict[Point, list[Any]] = {}

    def ask(self) -> list[Trial]:
        self._pending = {}
        for _ in range(min(self._batch, self._left)):
            if (proposed := self._propose()) is None:
                break
            self._left -= 1
            proposal, index = proposed
            self._pending.setdefault(meant(self._space, index), []).append(proposal)
        return [Trial(point, self._samples * len(all_)) for point, all_ in self._pending.items()]

    def tell(self, point: Point, score: float | None) -> None:
        for proposal in self._pending[point]:
            self._report(proposal, score)


def _optuna(
    sampler: Callable[[Any, Space, int, int], Any], batch: Callable[[int], int], seeded: bool
) -> Make:
    """An Optuna strategy; `sampler` makes one from (optuna.samplers, space, budget, seed)."""

    def make(
        space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
    ) -> Strategy:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=sampler(optuna.samplers, space, budget, seed))
        study.stop = lambda: None  # the grid calls it at its end, but it fails with ask and tell
        if seeded:
            for point in start:
                study.enqueue_trial({g.name: at for g, at in zip(space.genes, point, strict=True)})

        def propose() -> tuple[Any, Point]:
            trial = study.ask()
            index = tuple(
                trial.suggest_int(gene.name, 0, len(gene.values) - 1)
                if gene.ordered
                else trial.suggest_categorical(gene.name, range(len(gene.values)))
                for gene in space.genes
            )
            return trial, index

        def report(trial: Any, score: float | None) -> None:
            state = optuna.trial.TrialState.FAIL if score is None else None
            study.tell(trial, score, state=state)

        return Adaptor(space, budget, samples, propose, report, batch(budget))

    return make


def _population(budget: int) -> int:
    """Population of our `genetic-plain`: small enough for some generations within the budget."""
    return max(4, round(math.sqrt(2 * budget)))


def _nsga2(samplers: Any, space: Space, budget: int, seed: int) -> Any:
    return samplers.NSGAIISampler(population_size=_population(budget), seed=seed)


def _nsga2_shipped(samplers: Any, space: Space, budget: int, seed: int) -> Any:
    return samplers.NSGAIISampler(seed=seed)


def _tpe(samplers: Any, space: Space, budget: int, seed: int) -> Any:
    return samplers.TPESampler(
        n_startup_trials=max(3, budget // 5), multivariate=True, constant_liar=True, seed=seed
    )


def _tpe_shipped(samplers: Any, space: Space, budget: int, seed: int) -> Any:
    return samplers.TPESampler(seed=seed)


def _grid(samplers: Any, space: Space, budget: int, seed: int) -> Any:
    return samplers.GridSampler({g.name: list(range(len(g.values))) for g in space.genes}, seed)


def _nevergrad(
    space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
) -> Strategy:
    """Nevergrad's (1+1) for discrete values, its mutation strength drawn from a portfolio."""
    import nevergrad

    p = nevergrad.p
    genes = [
        p.TransitionChoice(range(len(gene.values)))
        if gene.ordered
        else p.Choice(range(len(gene.values)))
        for gene in space.genes
    ]
    instrumentation = p.Tuple(*genes)
    instrumentation.random_state.seed(seed)
    optimiser = nevergrad.optimizers.registry["PortfolioDiscreteOnePlusOne"](
        parametrization=instrumentation, budget=budget
    )
    for point in start:
        optimiser.suggest(point)

    def propose() -> tuple[Any, Point]:
        candidate = optimiser.ask()
        return candidate, tuple(int(at) for at in candidate.value)

    def report(candidate: Any, score: float | None) -> None:
        optimiser.tell(candidate, _FAILED if score is None else score)

    return Adaptor(space, budget, samples, propose, report, 1)


@dataclass(frozen=True, slots=True)
class Rival:
    """Another tuner.

    Attributes
    ----------
    summary : str
    needs : str
        Package that it needs.
    make : callable
        Makes the strategy.
    """

    summary: str
    needs: str
    make: Make


RIVALS = {
    "optuna-nsga2": Rival(
        "Optuna's NSGA-II, default first, a population for the budget",
        "optuna",
        _optuna(_nsga2, _population, seeded=True),
    ),
    "optuna-nsga2-shipped": Rival(
        "Optuna's NSGA-II, population 50", "optuna", _optuna(_nsga2_shipped, lambda _: 6, False)
    ),
    "optuna-tpe": Rival(
        "Optuna's TPE, default first, multivariate, 4 at once, fewer at random",
        "optuna",
        _optuna(_tpe, lambda _: 4, seeded=True),
    ),
    "optuna-tpe-shipped": Rival(
        "Optuna's TPE, one by one, the first 10 at random",
        "optuna",
        _optuna(_tpe_shipped, lambda _: 1, False),
    ),
    "optuna-grid": Rival(
        "Optuna's grid of all combinations, in random order",
        "optuna",
        _optuna(_grid, lambda _: 6, False),
    ),
    "nevergrad-discrete": Rival(
        "nevergrad's portfolio of discrete (1+1), default first", "nevergrad", _nevergrad
    ),
}


def missing(name: str) -> str | None:
    """Why a strategy cannot run here; None if it can."""
    if name in STRATEGIES:
        return None
    if name not in RIVALS:
        return "there is no such strategy"
    needs = RIVALS[name].needs
    return None if find_spec(needs) else f"{needs} is not installed: extra [tuner-rivals]"


def maker(name: str) -> Make:
    """The function that makes the strategy of that name, ours or a rival's."""
    return STRATEGIES[name] if name in STRATEGIES else RIVALS[name].make
