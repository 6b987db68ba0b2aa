"""`TuningResult`: what a tuning run gave, to be read by people and by programs."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastattn._config import Config
from fastattn._spec import CallSpec
from fastattn.tuner.guard import Load
from fastattn.tuner.record import Evaluation, Search
from fastattn.tuner.space import Point, Space, candidate

__all__ = ["Row", "TuningResult", "name_of", "rows_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured point, as a table shows it.

    Attributes
    ----------
    name : str
        Implementation and configuration.
    seconds : float or None
        Median time of a call in the final; None for a point that was not in it.
    ratio : float or None
        Time over the default's; None for a point that failed.
    interval : (float, float) or None
        95 % interval of `ratio`, for a point of the final.
    remark : str
        "winner", "default", "dropped", or why it failed.
    """

    name: str
    seconds: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    remark: str


def rows_of(space: Space, spec: CallSpec, found: Search) -> tuple[Row, ...]:
    """Measured points: finalists first, then by ratio; those that failed come last."""
    measured = {one.point: one for one in found.evaluations}
    rows = []
    for point in dict.fromkeys([*found.finalists, *measured]):
        one, standing = measured.get(point), found.standing(point)
        samples = found.final_samples(point)
        score = None if one is None else one.score
        ratio, interval = None if score is None else math.exp(score), None
        if standing is not None:
            ratio, interval = standing.ratio, standing.interval
        rows.append(
            Row(
                name_of(space, point, spec),
                statistics.median(samples) if samples else None,
                ratio,
                interval,
                _remark(found, point, one),
            )
        )
    return tuple(
        sorted(rows, key=lambda row: (row.seconds is None, row.ratio is None, row.ratio or 0.0))
    )


def name_of(space: Space, point: Point, spec: CallSpec) -> str:
    """Implementation and configuration of a point, and its data type if the space has that gene."""
    meant = candidate(space, point, spec)
    return _words(meant.impl, meant.config, meant.dtype if "dtype" in space.values(point) else "")


def _words(impl: str, config: Config, dtype: str = "") -> str:
    fields = [f"{name}={value}" for name, value in config.explicit().items()]
    return " ".join([impl, *fields, dtype]).strip()


def _remark(found: Search, point: Point, one: Evaluation | None) -> str:
    if one is not None and one.failure is not None:
        return one.failure
    marks = [
        word
        for word, holds in (
            ("winner", point == found.winner),
            ("default", point == found.control),
            ("dropped", one is not None and one.dropped),
        )
        if holds
    ]
    return ", ".join(marks)


@dataclass(frozen=True, slots=True)
class TuningResult:
    """What `tune` found; its `str` is meant to be read.

    Attributes
    ----------
    problem : str
        The problem's axes and data type, in words.
    space, strategy : str
    seed, budget : int
    impl : str
        Implementation of the winner.
    config : Config
        Its configuration.
    dtype : str
        Its data type; it may differ from the problem's only in the space ``study``.
    speedup : float
        Default's time over the winner's: median of paired rounds.
    speedup_interval : (float, float) or None
        95 % interval of `speedup`; None if there was no final of enough rounds.
    selection_bound : float or None
        With 95 % confidence, the winner takes longer than the best finalist by at most this
        share.  It says nothing about points that were not measured.
    exploration : (int, int)
        Points measured, and valid points: what `selection_bound` leaves open.
    variation : float or None
        Coefficient of variation of the winner's blocks.
    evaluations : int
        Points measured before the final.
    tuning_seconds : float
        Time that all of it took.
    kernel_seconds, optimiser_seconds, preparation_seconds : float
        Parts of that: in blocks of calls; in the strategy and the decision; in making inputs,
        compiling and checking.
    remembered : Path or None
        Where the winner is kept.
    not_remembered : str or None
        Why the winner is not remembered.
    load : Load
        What else the CPUs did meanwhile.
    search : Search
        Every measurement.
    rows : tuple of Row
        The points measured: finalists first, and the best first.
    """

    problem: str
    space: str
    strategy: str
    seed: int
    budget: int
    impl: str
    config: Config
    dtype: str
    speedup: float
    speedup_interval: tuple[float, float] | None
    selection_bound: float | None
    exploration: tuple[int, int]
    variation: float | None
    evaluations: int
    tuning_seconds: float
    kernel_seconds: float
    optimiser_seconds: float
    preparation_seconds: float
    remembered: Path | None
    not_remembered: str | None
    load: Load
    search: Search
    rows: tuple[Row, ...]

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the search."""
        return self.search.interrupted

    def to_json(self) -> dict[str, Any]:
        """Everything, raw samples included, in types that JSON has."""
        plain = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("config", "load", "search", "rows", "remembered")
        }
        for name in ("speedup_interval", "exploration"):
            plain[name] = None if plain[name] is None else list(plain[name])
        return {
            **plain,
            "config": self.config.explicit(),
            "remembered": None if self.remembered is None else str(self.remembered),
            "load": asdict(self.load),
            "search": self.search.to_json(),
        }

    def __str__(self) -> str:
        seen, valid = self.exploration
        speedup = "none: the default is kept"
        if self.search.winner != self.search.control:
            speedup = f"{self.speedup:.3f} over the default"
            if self.speedup_interval is not None:
                speedup += "  (95 %: {:.3f} to {:.3f})".format(*self.speedup_interval)
        explored = "all" if seen == valid else f"{100 * seen / valid:.1f} %"
        facts = {
            "problem": self.problem,
            "winner": _words(self.impl, self.config, self.dtype),
            "because": self._reason(),
            "speed-up": speedup,
            "selection": "unknown: no final of enough rounds"
            if self.selection_bound is None
            else f"at most {100 * self.selection_bound:.1f} % behind the best finalist (95 %)",
            "exploration": f"{seen} of {valid} points, {explored}, by {self.strategy}",
            "variation": "unknown"
            if self.variation is None
            else f"{100 * self.variation:.1f} % between blocks of the winner",
            "seconds": f"{self.tuning_seconds:.1f}, of which kernel {self.kernel_seconds:.1f}, "
            f"preparation {self.preparation_seconds:.1f}, optimiser {self.optimiser_seconds:.2f}",
            "remembered": f"no: {self.not_remembered}"
            if self.remembered is None
            else str(self.remembered),
        }
        return "\n".join(f"{name:<11} {words}" for name, words in facts.items())

    def _reason(self) -> str:
        found = self.search
        if found.interrupted:
            return "the search was interrupted"
        words = "there was no final" if found.decision is None else found.decision.reason
        return words + ("; time ran out before the budget" if found.cut_short else "")
