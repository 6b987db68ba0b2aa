"""Search strategies, one file each, and their registry.

A strategy works on points and scores alone: it knows no meanings, clocks or kernels.  `search`
takes any object with the methods of `Strategy`; those named here are what `tune` accepts.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastattn._errors import ArgumentError
from fastattn.tuner.space import Point, Space
from fastattn.tuner.strategies._base import BaseStrategy, Strategy, Trial
from fastattn.tuner.strategies.exhaustive import Exhaustive
from fastattn.tuner.strategies.genetic import Genetic

__all__ = ["AUTO", "STRATEGIES", "BaseStrategy", "Strategy", "Trial", "make"]

AUTO = "exhaustive if the budget is enough for the whole space, else genetic"
"""What the name "auto" stands for."""
STRATEGIES: dict[str, type[BaseStrategy]] = {one.NAME: one for one in (Genetic, Exhaustive)}


def make(
    name: str, space: Space, budget: int, seed: int, start: Sequence[Point] = (), samples: int = 5
) -> Strategy:
    """Create the strategy of that name, with the arguments of `BaseStrategy`."""
    if name == "auto":
        name = Exhaustive.NAME if len(space) <= budget else Genetic.NAME
    if name not in STRATEGIES:
        accepted = f"one of {['auto', *STRATEGIES]}"
        raise ArgumentError("strategy", repr(name), accepted, "correct the name")
    return STRATEGIES[name](space, budget, seed, start, samples)
