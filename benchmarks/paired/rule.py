"""The rule of decision: which pairs count, what a round says, what a verdict takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import exact

OUTLIER_DEVIATIONS = 5.0  # of a pair's sum from their median, in robust standard deviations
OUTLIER_LEAST = 0.03  # but never a sum that is nearer to the median than this
LEAST_PAIRS = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """Some calls of one side.

    Attributes
    ----------
    seconds : float
        Mean of a call: of CPU time on one thread, else of the clock on the wall.
    wall_seconds : float
        Time of the turn.
    lost_seconds : float
        Of it, the process did not run.
    switches : int
        Times that the process was made to leave its CPU.
    steal_ticks : int
        Ticks that the hypervisor gave the CPU to others.
    by_wall : bool
        `seconds` has in it what others took.
    """

    seconds: float
    wall_seconds: float
    lost_seconds: float = 0.0
    switches: int = 0
    steal_ticks: int = 0
    by_wall: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """What one round says of one cell.

    Attributes
    ----------
    log_ratio : float or None
        Median over the pairs of log(head / base); None where too few pairs are left.
    base_seconds, head_seconds : float
        Medians of a call.
    pairs, discarded : int
        Taken, and not counted.
    lost_share : float
        Of all turns' time, others had the CPU.
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
    """Settings of the decision.

    Attributes
    ----------
    band : float
        Ratios that nobody minds: 1 - band to 1 + band.
    alpha : float
        Probability that a comparison of two equal revisions calls any cell worse or better,
        at most.
    confidence : float
        Of the intervals.
    screening : int
        Rounds of all cells; they clear what they show to be the same, and nothing else.
    looks : int
        Times that the verdict is tried on the fresh rounds; alpha is shared among them.
    most_discarded : float
        Share of a round's pairs; a round that loses more says nothing.
    patience : float
        Rounds that are begun at most, over those wanted: some may say nothing.
    """

    band: float = 0.02
    alpha: float = 0.01
    confidence: float = 0.95
    screening: int = 6
    looks: int = 2
    most_discarded: float = 0.5
    patience: float = 1.5

    def confirming(self, family: int) -> int:
        """Fresh rounds for each look: with one of them to the contrary there is a verdict."""
        rounds = 1
        while 2 * exact.tail(1, rounds) * family * self.looks > self.alpha:
            rounds += 1
        return rounds


def disturbed(pairs: Sequence[tuple[Turn, Turn]]) -> list[bool]:
    """Which pairs do not count.

    The rule cannot see the ratio: each of its questions has the same answer when base and
    head change places.  It asks for stolen time; for a process that had to wait, where the
    turn's time has the wait in it; and whether both together took far longer than most pairs.
    Sums, for they have one peak however far apart the sides are.
    """
    sums = [a.seconds + b.seconds for a, b in pairs]
    middle = statistics.median(sums)
    deviation = 1.4826 * statistics.median(abs(s - middle) for s in sums)
    limit = middle + max(OUTLIER_DEVIATIONS * deviation, OUTLIER_LEAST * middle)
    return [
        a.steal_ticks + b.steal_ticks > 0
        or ((a.by_wall or b.by_wall) and a.switches + b.switches > 0)
        or a.seconds + b.seconds > limit
        for a, b in pairs
    ]


def summarise(pairs: Sequence[tuple[Turn, Turn]], rule: Rule) -> Round:
    """Reduce the pairs (base, head) of one cell in one round."""
    marks = disturbed(pairs)
    kept = [pair for pair, mark in zip(pairs, marks, strict=True) if not mark]
    enough = len(kept) >= max(LEAST_PAIRS, (1 - rule.most_discarded) * len(pairs))
    shown = kept or pairs
    turns = [turn for pair in pairs for turn in pair]
    return Round(
        statistics.median(math.log(b.seconds / a.seconds) for a, b in kept) if enough else None,
        statistics.median(a.seconds for a, _ in shown),
        statistics.median(b.seconds for _, b in shown),
        len(pairs),
        len(pairs) - len(kept),
        sum(turn.lost_seconds for turn in turns) / sum(turn.wall_seconds for turn in turns),
        sum(turn.steal_ticks for turn in turns),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one cell.

    Attributes
    ----------
    word : str
        "worse", "better", "same", "unresolved".
    ratio, low, high : float or None
        Head over base: median over the rounds of the verdict, and its interval.
    coverage : float or None
        Of the interval.
    p : float or None
        Adjusted for all cells that were confirmed and for the looks.
    rounds : int
        That the verdict rests on.
    screened : bool
        It rests on the screening.
    reason : str
        Why there is no better word, where there is none.
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
    interval = exact.sign_interval(values, rule.confidence)
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
