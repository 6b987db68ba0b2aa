"""Strategies, one file each, and their registry.

A strategy knows points and scores, but not what they mean; it knows no clocks or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastattn._errors import ArgumentError, format_error
from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies._base import Strategy, Trial
from fastattn.tuner.strategies.auto import Auto
from fastattn.tuner.strategies.exhaustive import Exhaustive
from fastattn.tuner.strategies.genetic import Genetic
from fastattn.tuner.strategies.genetic_plain import GeneticPlain
from fastattn.tuner.strategies.local import Local
from fastattn.tuner.strategies.random_ import Random
from fastattn.tuner.strategies.successive_halving import SuccessiveHalving

__all__ = ["STRATEGIES", "Strategy", "Trial", "make"]

_ALL: tuple[type[Strategy], ...] = (
    Auto,
    Genetic,
    GeneticPlain,
    SuccessiveHalving,
    Local,
    Random,
    Exhaustive,
)
STRATEGIES: dict[str, type[Strategy]] = {strategy.NAME: strategy for strategy in _ALL}


def make(
    name: str, space: Space, budget: int, seed: int, start: Sequence[Point] = (), blocks: int = 5
) -> Strategy:
    """A strategy by its name, with the arguments of `Strategy`.

    Raises
    ------
    ArgumentError
        There is no such strategy.
    """
    if name not in STRATEGIES:
        raise ArgumentError(
            format_error("strategy", repr(name), f"one of {list(STRATEGIES)}", "correct the name")
        )
    return STRATEGIES[name](space, budget, seed, start, blocks)
