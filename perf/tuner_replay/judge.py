"""What may be concluded from replays: intervals by the bootstrap, verdicts corrected by Holm.

The tables are taken as given: intervals cover other seeds on the same tables, not other
problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perf import summary
from perf.tuner_replay.results import Cell

__all__ = ["Difference", "difference", "interval", "verdicts"]

RESAMPLES = 4000
LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference over tables and seeds, signed so that more is better for us.

    Attributes
    ----------
    mean : float
    interval : (float, float)
        The interval of 95 %.
    p : float
        Two-sided p-value of there being no difference.
    """

    mean: float
    interval: tuple[float, float]
    p: float


def resampled(samples: Sequence[Array], rng: np.random.Generator) -> Array:
    """Means over tables of the means over seeds, with the seeds of each table drawn again.

    Equal values are drawn together: how often each comes up is multinomial.
    """
    total = np.zeros(RESAMPLES)
    for values in samples:
        distinct, counts = np.unique(values, return_counts=True)
        size = len(values)
        drawn = rng.multinomial(size, counts / size, RESAMPLES)
        total += drawn @ distinct / size
    return total / len(samples)


def interval(samples: Sequence[Array], rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the mean over tables."""
    low, high = np.quantile(resampled(samples, rng), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def difference(samples: Sequence[Array], rng: np.random.Generator) -> Difference:
    """Whether paired differences, one array per table, are zero on average."""
    means = resampled(samples, rng)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    below, above = (means <= 0).sum(), (means >= 0).sum()
    p = min(1.0, 2 * (min(below, above) + 1) / (RESAMPLES + 1))
    mean = float(np.mean([values.mean() for values in samples]))
    return Difference(mean, (float(low), float(high)), float(p))


def verdicts(differences: Mapping[str, Difference]) -> dict[str, str]:
    """For each rival, whether ours is "ahead" of it, "behind" it, or that is "undecided"."""
    adjusted = summary.holm([one.p for one in differences.values()], len(differences))
    corrected = dict(zip(differences, adjusted, strict=True))
    return {
        name: "undecided"
        if corrected[name] > 1 - LEVEL
        else ("ahead" if one.mean > 0 else "behind")
        for name, one in differences.items()
    }


def paired(ours: Sequence[Cell], others: Sequence[Cell], score: str) -> list[Array]:
    """Paired differences, by setting and table, for the seeds that both have.

    `score` is "close": within 2 %, ours less theirs; or "regret": theirs less ours.
    """
    rows = []
    theirs = {(cell.setting, cell.table): cell for cell in others}
    for mine in ours:
        other = theirs[mine.setting, mine.table]
        count = min(len(mine.regrets), len(other.regrets))
        if score == "close":
            row = mine.close[:count].astype(float) - other.close[:count]
        else:
            row = np.array(other.regrets[:count]) - np.array(mine.regrets[:count])
        rows.append(row)
    return rows
