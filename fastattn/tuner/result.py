"""`TuningResult`: what `tune` found, as text for people and as JSON for programs."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastattn._config import Config
from fastattn._spec import CallSpec
from fastattn.tuner.record import Evaluation, Search
from fastattn.tuner.space import Point, Space, candidate
from fastattn.tuner.system import SystemLoad

__all__ = ["Row", "TuningResult", "rows_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured point, as a row of a table.

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
    evaluations = {one.point: one for one in found.evaluations}
    rows = []
    for point in dict.fromkeys([*found.finalists, *evaluations]):
        one, standing = evaluations.get(point), found.standing(point)
        samples = found.final_samples(point)
        ratio = None if one is None or one.score is None else math.exp(one.score)
        ratio = ratio if standing is None else standing.ratio
        found_here = candidate(space, point, spec)
        dtype = found_here.dtype if "dtype" in space.values(point) else ""
        rows.append(
            Row(
                _describe(found_here.impl, found_here.config, dtype),
                statistics.median(samples) if samples else None,
                ratio,
                None if standing is None else standing.interval,
                _remark(found, point, one),
            )
        )
    return tuple(
        sorted(rows, key=lambda row: (row.seconds is None, row.ratio is None, row.ratio or 0.0))
    )


def _describe(impl: str, config: Config, dtype: str) -> str:
    fields = [f"{name}={value}" for name, value in config.explicit().items()]
    return " ".join([impl, *fields, dtype]).strip()


def _remark(found: Search, point: Point, one: Evaluation | None) -> str:
    if one is not None and one.failure is not None:
        return one.failure
    marks = {
        "winner": point == found.winner,
        "default": point == found.baseline,
        "dropped": one is not None and one.dropped,
    }
    return ", ".join(mark for mark, holds in marks.items() if holds)


@dataclass(frozen=True, slots=True)
class TuningResult:
    """Result of `tune`; ``print`` shows it as text.

    Attributes
    ----------
    problem : str
        The problem's axes, data type and causal mask.
    space, strategy : str
        Arguments of `tune`.
    seed, budget : int
        Arguments of `tune`.
    impl : str
        Implementation of the winner.
    config : Config
        Its configuration.
    dtype : str
        Its data type; it may differ from the problem's only in the space ``study``.
    speedup : float
        Default's time over the winner's: median of paired repetitions.
    speedup_interval : (float, float) or None
        95 % interval of `speedup`; None if there was no final of enough repetitions.
    selection_bound : float or None
        With 95 % confidence, the winner takes longer than the best finalist by at most this
        share.  It says nothing about points that were not measured.
    exploration : (int, int)
        Points measured, and points of the space.
    variation : float or None
        Coefficient of variation of the winner's samples.
    evaluations : int
        Points measured before the final.
    tuning_seconds : float
        Total time, in seconds.
    kernel_seconds, optimiser_seconds, preparation_seconds : float
        Parts of the total: for samples; for the strategy and the decision; for inputs, compilation
        and checks.
    remembered : Path or None
        File in which the winner is stored; None if it is not.
    not_remembered : str or None
        Why the winner is not remembered.
    load : SystemLoad
        CPU time that other processes and virtual machines used meanwhile.
    search : Search
        Every measurement.
    rows : tuple of Row
        The points measured: finalists first, and the best first.

    Examples
    --------
    >>> import fastattn
    >>> result = fastattn.tune((1, 2, 2, 32, 32, 16), impl="numpy", remember=False)
    >>> result.config
    Config()
    >>> result.exploration
    (1, 1)
    >>> print(result)  # doctest: +ELLIPSIS
    problem     B=1 Hq=2 Hkv=2 Lq=32 Lk=32 D=16 Dv=16 float32
    winner      numpy float32
    ...
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
    load: SystemLoad
    search: Search
    rows: tuple[Row, ...]

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the search."""
        return self.search.interrupted

    def to_json(self) -> dict[str, Any]:
        """Everything, raw samples included, in types that JSON has."""
        path = self.remembered
        document = asdict(self) | {
            "config": self.config.explicit(),
            "remembered": None if path is None else str(path),
        }
        del document["rows"]  # they follow from the search
        return document

    def __str__(self) -> str:
        measured, points = self.exploration
        speedup = "none: the default is kept"
        if self.search.winner != self.search.baseline:
            speedup = f"{self.speedup:.3f} over the default"
            if self.speedup_interval is not None:
                speedup += "  (95 %: {:.3f} to {:.3f})".format(*self.speedup_interval)
        share = "all" if measured == points else f"{100 * measured / points:.1f} %"
        facts = {
            "problem": self.problem,
            "winner": _describe(self.impl, self.config, self.dtype),
            "because": self._reason(),
            "speed-up": speedup,
            "selection": "unknown: no final of enough repetitions"
            if self.selection_bound is None
            else f"at most {100 * self.selection_bound:.1f} % behind the best finalist (95 %)",
            "exploration": f"{measured} of {points} points, {share}, by {self.strategy}",
            "variation": "unknown"
            if self.variation is None
            else f"{100 * self.variation:.1f} % between samples of the winner",
            "took": f"{self.tuning_seconds:.1f} s, of which calls {self.kernel_seconds:.1f} s, "
            f"preparation {self.preparation_seconds:.1f} s, "
            f"strategy {self.optimiser_seconds:.2f} s",
            "remembered": f"no: {self.not_remembered}"
            if self.remembered is None
            else str(self.remembered),
        }
        return "\n".join(f"{name:<11} {value}" for name, value in facts.items())

    def _reason(self) -> str:
        found = self.search
        if found.interrupted:
            return "the search was interrupted"
        reason = "there was no final" if found.decision is None else found.decision.reason
        return reason + ("; time ran out before the budget" if found.cut_short else "")
