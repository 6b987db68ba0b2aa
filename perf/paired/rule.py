"""The decision rule: which pairs count, what a round says, what a verdict requires."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from perf import summary

OUTLIER_DEVIATIONS = 5.0  # of a pair's sum above the median sum, in robust standard deviations
OUTLIER_LEAST = 0.03  # but a sum nearer to the median than this share of it is no outlier
LEAST_PAIRS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """Some calls of one side, in a row.

    Attributes
    ----------
    seconds : float
        Mean time of a call: CPU time on one thread, otherwise wall-clock time.
    wall_seconds : float
        Wall-clock time of the turn.
    lost_seconds : float
        Part of that time in which the process did not run.
    switches : int
        Number of times that the process was made to leave its CPU.
    steal_ticks : int
        Ticks that the hypervisor gave the CPU to others.
    by_wall : bool
        Whether `seconds` includes time that others took.
    """

    seconds: float
    wall_seconds: float
    lost_seconds: float = 0.0
    switches: int = 0
    steal_ticks: int = 0
    by_wall: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """What one round says about one cell.

    Attributes
    ----------
    log_ratio : float or None
        Median over the pairs of log(head / base); None where too few pairs are left.
    base_seconds, head_seconds : float
        Median times of a call.
    pairs, discarded : int
        Pairs that were taken, and those of them that do not count.
    lost_share : float
        Share of all turns' time in which others had the CPU.
    steal_ticks : int
        Ticks of the system's clock that the hypervisor took.
    """

    log_ratio: float | None
    base_seconds: float
    head_seconds: float
    pairs: int
    discarded: int
    lost_share: float = 0.0
    steal_ticks: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings of the decision rule.

    Attributes
    ----------
    band : float
        Ratios that nobody minds: 1 - band to 1 + band.
    alpha : float
        Largest probability that a comparison of two equal revisions calls any cell worse or
        better.
    confidence : float
        Confidence of the intervals.
    screening : int
        Rounds of all cells; they only clear what they show to be the same.
    looks : int
        How often the fresh rounds are tried for a verdict; these looks share alpha.
    most_discarded : float
        Share of a round's pairs; a round that loses more than that says nothing.
    excess : float
        Most rounds that are begun, over those wanted, since some may say nothing.
    """

    band: float = 0.02
    alpha: float = 0.01
    confidence: float = 0.95
    screening: int = 6
    looks: int = 2
    most_discarded: float = 0.5
    excess: float = 1.5

    def confirming(self, family: int) -> int:
        """Fresh rounds for each look: a verdict is possible even if one of them disagrees."""
        rounds = 1
        while 2 * summary.tail(1, rounds) * family * self.looks > self.alpha:
            rounds += 1
        return rounds


def contended(pairs: Sequence[tuple[Sample, Sample]]) -> list[bool]:
    """Which pairs do not count.

    The rule cannot see the ratio: each of its questions has the same answer when base and
    head change places.  It asks whether time was stolen; whether a process had to wait, if the
    turn's time includes the wait; and whether both turns together took far longer than those of
    most pairs.  It looks at totals, because they have one peak however far apart the sides are.
    """
    totals = [a.seconds + b.seconds for a, b in pairs]
    middle = statistics.median(totals)
    deviation = 1.4826 * statistics.median(abs(s - middle) for s in totals)
    limit = middle + max(OUTLIER_DEVIATIONS * deviation, OUTLIER_LEAST * middle)
    return [
        a.steal_ticks + b.steal_ticks > 0
        or ((a.by_wall or b.by_wall) and a.switches + b.switches > 0)
        or a.seconds + b.seconds > limit
        for a, b in pairs
    ]


def summarise(pairs: Sequence[tuple[Sample, Sample]], rule: Rule) -> Round:
    """Summarise the pairs (base, head) of one cell in one round."""
    marks = contended(pairs)
    kept = [pair for pair, mark in zip(pairs, marks, strict=True) if not mark]
    enough = len(kept) >= max(LEAST_PAIRS, (1 - rule.most_discarded) * len(pairs))
    shown = kept or pairs
    samples = [one for pair in pairs for one in pair]
    return Round(
        statistics.median(math.log(b.seconds / a.seconds) for a, b in kept) if enough else None,
        statistics.median(a.seconds for a, _ in shown),
        statistics.median(b.seconds for _, b in shown),
        len(pairs),
        len(pairs) - len(kept),
        sum(one.lost_seconds for one in samples) / sum(one.wall_seconds for one in samples),
        sum(one.steal_ticks for one in samples),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about one cell.

    Attributes
    ----------
    word : str
        "worse", "better", "same", "unresolved".
    ratio, low, high : float or None
        Head over base: the median over the verdict's rounds, and its interval.
    coverage : float or None
        Coverage of the interval.
    p : float or None
        The p-value, adjusted for all cells that had fresh rounds and for the looks.
    rounds : int
        Number of rounds that the verdict rests on.
    screened : bool
        Whether it rests on the screening.
    reason : str
        Why there is no clearer word, if the word is "unresolved".
    """

    word: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    coverage: float | None = None
    p: float | None = None
    rounds: int = 0
    screened: bool = False
    reason: str = field(default="", compare=False)


def judge(
    values: Sequence[float], p: float | None, rule: Rule, screened: bool = False, reason: str = ""
) -> Verdict:
    """The verdict on log ratios of rounds; without a p-value it is "same" or "unresolved"."""
    if not values:
        return Verdict("unresolved", screened=screened, reason=reason or "no round counted")
    band = math.log1p(rule.band)
    middle = statistics.median(values)
    interval = summary.sign_interval(values, rule.confidence)
    word, why = "unresolved", "the rounds differ too much"
    if interval.coverage >= rule.confidence and interval.within(band):
        word = "same"
    elif p is not None and p <= rule.alpha and abs(middle) > band:
        word = "worse" if middle > 0 else "better"
    elif p is not None and p <= rule.alpha:
        why = "a difference of about the band's width"
    return Verdict(
        word,
        math.exp(middle),
        math.exp(interval.low),
        math.exp(interval.high),
        interval.coverage,
        p,
        len(values),
        screened,
        (reason or why) if word == "unresolved" else "",
    )
