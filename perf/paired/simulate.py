"""Comparisons of recorded rounds: the rule's rates at counts that would take too long to measure.

A simulated round of a cell is one of its recorded rounds of equal sides, drawn with
replacement, its sign at random, and a planted effect added.  So the noise is real, and the
rest is assumed: that rounds do not depend on each other, and that of two equal sides either
is the faster one equally often.  Only real comparisons can tell whether that holds, so the two
kinds of rates are never added.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perf.paired.engine import Comparison, Trouble, compare
from perf.paired.rule import Round, Rule

EFFECTS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.10, 0.15, 0.20, 0.30)
DETECTED = 0.95  # of the comparisons, for an effect to count as detectable


class Recorded:
    """A source of simulated rounds.

    Parameters
    ----------
    log_ratios : mapping
        Recorded rounds of equal sides by cell; None is a round that did not count.
    effects : mapping
        Planted ratio less 1, by cell.
    """

    def __init__(
        self,
        log_ratios: Mapping[str, Sequence[float | None]],
        effects: Mapping[str, float],
        rng: random.Random,
    ) -> None:
        self._log_ratios, self._random = log_ratios, rng
        self._planted = {name: math.log1p(effect) for name, effect in effects.items()}
        self.troubles: dict[str, Trouble] = {}

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        """One fresh round."""
        return {name: self._one(name) for name in names}

    def _one(self, name: str) -> Round:
        value = self._random.choice(self._log_ratios[name])
        if value is not None:
            value = self._random.choice((-1, 1)) * value + self._planted.get(name, 0.0)
        return Round(value, 1.0, 1.0, 1, 0)


@dataclass(frozen=True, slots=True)
class Count:
    """How many of how many."""

    found: int
    of: int

    @property
    def share(self) -> float:
        """The count as a fraction."""
        return self.found / self.of if self.of else math.nan


def alarms(
    log_ratios: Mapping[str, Sequence[float | None]], rule: Rule, times: int, seed: int = 0
) -> Count:
    """Count comparisons of equal sides in which any cell is called worse or better."""
    rng, found = random.Random(seed), 0
    for _ in range(times):
        one = _compare(log_ratios, {}, rule, rng)
        found += one.count("worse") + one.count("better") > 0
    return Count(found, times)


def detections(
    log_ratios: Mapping[str, Sequence[float | None]],
    rule: Rule,
    name: str,
    effect: float,
    times: int,
    seed: int = 0,
) -> Count:
    """Count comparisons in which a cell, the only slower one, is called worse."""
    rng, found = random.Random(f"{seed} {name} {effect}"), 0
    for _ in range(times):
        one = _compare(log_ratios, {name: effect}, rule, rng)
        found += one.verdicts[name].word == "worse"
    return Count(found, times)


def smallest(shares: Mapping[float, Count]) -> float | None:
    """Smallest effect that, like all larger ones, is found often enough; None if there is none."""
    answer = None
    for effect in sorted(shares, reverse=True):
        if shares[effect].share < DETECTED:
            break
        answer = effect
    return answer


def _compare(
    log_ratios: Mapping[str, Sequence[float | None]],
    effects: Mapping[str, float],
    rule: Rule,
    rng: random.Random,
) -> Comparison:
    return compare(Recorded(log_ratios, effects, rng), list(log_ratios), rule)
