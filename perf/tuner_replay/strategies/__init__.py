"""Strategies to compare the tuner's with, beside those that `fastattn.tune` offers."""

from __future__ import annotations

from fastattn.tuner import strategies
from fastattn.tuner.strategies import BaseStrategy
from perf.tuner_replay.strategies.genetic_plain import GeneticPlain
from perf.tuner_replay.strategies.local import Local
from perf.tuner_replay.strategies.random_ import Random
from perf.tuner_replay.strategies.successive_halving import SuccessiveHalving

__all__ = ["STRATEGIES"]

_ALL: tuple[type[BaseStrategy], ...] = (GeneticPlain, SuccessiveHalving, Local, Random)
STRATEGIES = strategies.STRATEGIES | {strategy.NAME: strategy for strategy in _ALL}
