"""What was measured, the file it is kept in, and what follows from it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import conditions
from perf.files import Reading, read_record, write_record
from perf.peers.results import Results
from perf.summary import Estimate, estimate

FORMAT = 2  # of the file


@dataclass(slots=True)
class Round:
    """What one process measured of one dim.

    Attributes
    ----------
    samples : dict of str to list of float
        Seconds of a call, by implementation; sample i of each belongs to repetition i.
    errors : dict of str to float or None
        Maximum error against a wider type, over the naive one.
    reasons : dict of str to str
        Why an implementation cannot run here.
    failures : dict of str to str
        What went wrong in an implementation that should have run.
    others, stolen : float or None
        Share of the CPUs' time that others took; of that, the share that the hypervisor took.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    others: float | None = None
    stolen: float | None = None

    def ratio(self, above: str, below: str) -> float | None:
        """Median over the repetitions of one implementation's time over another's."""
        pairs = zip(self.samples.get(above, []), self.samples.get(below, []), strict=False)
        ratios = [a / b for a, b in pairs]
        return statistics.median(ratios) if ratios else None

    def seconds(self, impl: str) -> float | None:
        """Median seconds of a call over the repetitions."""
        samples = self.samples.get(impl)
        return statistics.median(samples) if samples else None

    def variation(self, impl: str) -> float | None:
        """Coefficient of variation: standard deviation over mean."""
        samples = self.samples.get(impl, [])
        return statistics.stdev(samples) / statistics.mean(samples) if len(samples) > 1 else None


@dataclass(slots=True)
class Record:
    """All of a run.

    Attributes
    ----------
    about : dict
        Machine, versions and commit; and what was asked for.
    wanted : int
        Number of rounds for each dim that count.
    tunings : dict of str to dict
        By dim: `fastattn.TuningResult.to_json`.
    rounds : dict of str to list of Round
        By dim.
    roofline : dict of str to dict
        By regime: ``time_over_peak`` and ``time``, one value per process, or why there is none.
    roofline_load : dict or None
        Shares of the CPUs' time, as in `Round`, while the roofline was measured.
    peers : dict or None
        What `perf.peers` keeps; `peers_reason` says why it is missing.
    sharing : dict or None
        `perf.threading.Ratio` of each case and load, under ``ratios``; or a ``reason`` for none.
    interrupted : bool
        Whether something is missing because the run was stopped.
    """

    about: dict[str, Any]
    wanted: int
    tunings: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    roofline: dict[str, dict[str, Any]] = field(default_factory=dict)
    roofline_load: dict[str, float | None] | None = None
    peers: dict[str, Any] | None = None
    peers_reason: str | None = None
    sharing: dict[str, Any] | None = None
    interrupted: bool = False

    def dims(self) -> list[int]:
        """Dims for which there is anything to show."""
        return sorted(int(dim) for dim in self.rounds if self.timed(dim))

    def timed(self, dim: int | str) -> list[Round]:
        """Rounds in which anything was timed."""
        return [one for one in self.rounds.get(str(dim), []) if one.samples]

    def kept(self, dim: int) -> list[Round]:
        """The rounds that count: the least contended, chosen without looking at their times."""
        return sorted(self.timed(dim), key=lambda one: one.others or 0.0)[: self.wanted]

    def _over_rounds(self, dim: int, read: Callable[[Round], float | None]) -> Estimate | None:
        values = (read(one) for one in self.kept(dim))
        return estimate([value for value in values if value is not None])

    def seconds(self, dim: int, impl: str) -> Estimate | None:
        """Seconds of a call."""
        return self._over_rounds(dim, lambda one: one.seconds(impl))

    def speedup(self, dim: int, impl: str, over: str = "numpy") -> Estimate | None:
        """Time of `over` divided by that of `impl`, paired within repetitions."""
        return self._over_rounds(dim, lambda one: one.ratio(over, impl))

    def variation(self, dim: int, impl: str) -> Estimate | None:
        """Coefficient of variation within a process."""
        return self._over_rounds(dim, lambda one: one.variation(impl))

    def contention(self, dim: int) -> float:
        """Median share of the CPUs' time that others took."""
        return statistics.median(one.others or 0.0 for one in self.kept(dim))

    def contended(self) -> list[int]:
        """Dims whose rounds lost more than `conditions.LOST_SHARE`."""
        return [dim for dim in self.dims() if self.contention(dim) > conditions.LOST_SHARE]

    def failures(self) -> dict[tuple[str, str], list[int]]:
        """What went wrong, by implementation and message: its dims, one for each process."""
        found: dict[tuple[str, str], list[int]] = {}
        for dim, rounds in self.rounds.items():
            for one in rounds:
                for failure in one.failures.items():
                    found.setdefault(failure, []).append(int(dim))
        return found

    def reasons(self) -> dict[str, str]:
        """Why an implementation could not run, by implementation."""
        rounds = (one for found in self.rounds.values() for one in found)
        return {impl: reason for one in rounds for impl, reason in one.reasons.items()}

    def peer_results(self) -> Results | None:
        """What was measured beside torch."""
        return None if self.peers is None else Results.of(self.peers)

    def write(self, path: Path) -> None:
        """Keep it all, raw samples included."""
        write_record(path, FORMAT, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read what `write` kept.

        Raises
        ------
        FileError
            The file is cut, or of another format.
        """
        with Reading(path):
            stored = read_record(path, FORMAT)
            rounds = {
                dim: [Round(**one) for one in found] for dim, found in stored.pop("rounds").items()
            }
            return cls(rounds=rounds, **stored)
