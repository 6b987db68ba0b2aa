"""A comparison: screening, fresh rounds for what the screening does not clear, verdicts.

The source decides where the rounds come from: live processes (`rounds`), recorded rounds
(`simulate`), or a test.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from perf import summary
from perf.paired.rule import Round, Rule, Verdict, judge

INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a cell is not compared.

    Attributes
    ----------
    kind : str
        "cannot": the base cannot run it, for example because it is new in the head; "failed": a
        process ended, or the head cannot run what the base can; "wrong": a side disagrees with
        the oracle.
    text : str
        Which side, and what it said.
    """

    kind: str
    text: str


class Source(Protocol):
    """Gives rounds, or raises `SourceError`; cells in `troubles` are not asked for again."""

    troubles: dict[str, Trouble]

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        """One fresh round of these cells; those in trouble are left out."""


@dataclass(slots=True)
class Comparison:
    """Rounds and verdicts of all cells, by name."""

    names: tuple[str, ...]
    rule: Rule
    screening: dict[str, list[Round]] = field(default_factory=dict)
    confirming: dict[str, list[Round]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    stopped: str | None = None  # why it ended early

    def rounds(self, name: str) -> list[Round]:
        """Rounds that the verdict rests on, or would rest on."""
        return self.confirming.get(name) or self.screening.get(name, [])

    def discarded(self, name: str) -> float | None:
        """Share of the pairs of all rounds that was discarded."""
        rounds = self.screening.get(name, []) + self.confirming.get(name, [])
        pairs = sum(r.pairs for r in rounds)
        return sum(r.discarded for r in rounds) / pairs if pairs else None

    def lost(self) -> float:
        """Share of the CPU that others had: median over all rounds."""
        kept = [one for many in (self.screening, self.confirming) for one in many.values()]
        shares = [one.lost_share for many in kept for one in many]
        return statistics.median(shares) if shares else 0.0

    def count(self, word: str) -> int:
        """Number of cells with this verdict."""
        return sum(verdict.word == word for verdict in self.verdicts.values())

    @property
    def status(self) -> int:
        """Exit status: 0 nothing worse, 1 something worse, 2 could not measure, 130 Ctrl-C."""
        if self.count("worse"):
            return 1
        if self.stopped == INTERRUPTED:
            return 130
        failed = any(trouble.kind != "cannot" for trouble in self.troubles.values())
        resolved = self.count("same") + self.count("better")
        return 2 if failed or self.stopped or not resolved else 0


class SourceError(RuntimeError):
    """The source can give no more rounds."""


def compare(
    source: Source,
    names: Sequence[str],
    rule: Rule,
    end: float | None = None,
    on_round: Callable[[str, int, int], None] = lambda stage, done, wanted: None,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Compare the cells; if interrupted or out of time, say what there is to say.

    Parameters
    ----------
    end : float or None
        Time on `clock` from which on no round begins.
    on_round : callable
        Called after each round with the stage, its rounds done, and its rounds wanted.
    """
    found = Comparison(tuple(names), rule, troubles=source.troubles)

    def gather(stage: str, kept: dict[str, list[Round]], open_: Sequence[str], wanted: int) -> None:
        """Take rounds until enough of them count for each open cell, or too many were taken."""
        for name in open_:
            kept.setdefault(name, [])
        most = round(rule.excess * wanted)
        for done in range(1, most + 1):
            short = [
                n for n in open_ if n not in source.troubles and len(_values(kept[n])) < wanted
            ]
            if not short:
                return
            if end is not None and clock() >= end:
                raise SourceError("out of time")
            for name, one in source.round(short).items():
                kept[name].append(one)
            on_round(stage, min(done, wanted), wanted)

    try:
        gather("screening", found.screening, names, rule.screening)
        open_ = _clear(found)
        family = len(open_)
        wanted = rule.confirming(family) if family else 0
        for number in range(1, rule.looks + 1):
            gather(f"fresh rounds, look {number}", found.confirming, open_, number * wanted)
            open_ = _decide(found, open_, family, number * wanted)
    except KeyboardInterrupt:
        found.stopped = INTERRUPTED
    except SourceError as error:
        found.stopped = str(error)
    for name in names:
        if found.stopped and name not in found.troubles and not _resolved(found, name):
            values = _values(found.rounds(name))
            screened = not found.confirming.get(name)
            verdict = judge(values, None, rule, screened, found.stopped)
            found.verdicts[name] = replace(verdict, word="unresolved", reason=found.stopped)
    return found


def _values(rounds: Sequence[Round]) -> list[float]:
    """Log ratios of the rounds that count."""
    return [one.log_ratio for one in rounds if one.log_ratio is not None]


def _resolved(found: Comparison, name: str) -> bool:
    return name in found.verdicts and found.verdicts[name].word != "unresolved"


def _clear(found: Comparison) -> list[str]:
    """Give verdicts on cells that the screening shows to be the same; return all other names."""
    open_ = []
    for name in found.names:
        if name in found.troubles:
            continue
        values = _values(found.screening[name])
        verdict = judge(values, None, found.rule, screened=True)
        if verdict.word == "same":
            found.verdicts[name] = verdict
        else:
            open_.append(name)
    return open_


def _decide(found: Comparison, open_: Sequence[str], family: int, wanted: int) -> list[str]:
    """Look once at the fresh rounds; return the names of cells that stay unresolved."""
    rule = found.rule
    names = [name for name in open_ if name not in found.troubles]
    values = {name: _values(found.confirming[name]) for name in names}
    adjusted = summary.holm([summary.sign_p(values[name]) for name in names], family)
    left = []
    for name, p in zip(names, adjusted, strict=True):
        begun, counted = len(found.confirming[name]), len(values[name])
        reason = "" if counted >= wanted else f"contended: {counted} of {begun} rounds count"
        verdict = judge(values[name], min(1.0, rule.looks * p), rule, reason=reason)
        if counted < wanted:  # the rule fixes the number of rounds
            verdict = replace(verdict, word="unresolved", reason=reason)
        found.verdicts[name] = verdict
        if verdict.word == "unresolved":
            left.append(name)
    return left
