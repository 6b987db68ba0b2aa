"""Samples, their ratios, and the file they are kept in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perf.files import Reading, read_record, write_record
from perf.peers import OURS
from perf.summary import Estimate, spread

FORMAT = 1  # of the file


@dataclass(slots=True)
class Entry:
    """What was measured of one peer in one cell on one number of threads.

    Attributes
    ----------
    samples : list of float
        Seconds of a call; sample i of every peer of the cell belongs to repetition i.
    calls : int
        Calls in a turn; a sample is their mean.
    alone : bool
        Whether it is too slow to take turns: one sample, of one call.
    error : float or None
        Maximum error against a wider type, over the naive one.
    rms : float or None
        In 16-bit types, root mean square of the error, over that of the exact result rounded once.
    difference : float or None
        Maximum difference from our result, if the cell asks for it.
    restless : int
        Number of turns before which this process did not become idle.
    skipped, failed : str or None
        Why there are no samples.
    """

    cell: str
    threads: int
    peer: str
    samples: list[float] = field(default_factory=list)
    calls: int = 0
    alone: bool = False
    error: float | None = None
    rms: float | None = None
    difference: float | None = None
    restless: int = 0
    skipped: str | None = None
    failed: str | None = None


def ratio(peer: Entry, ours: Entry) -> Estimate | None:
    """Peer's time over ours: above 1 we are faster.  None if there are no samples.

    Samples of the same repetition are divided, because what disturbs a repetition disturbs both.
    """
    if not peer.samples or not ours.samples:
        return None
    if peer.alone or ours.alone:
        only = statistics.median(peer.samples) / statistics.median(ours.samples)
        return Estimate(only, only, only)
    # An interrupted repetition is not kept, so both have one sample for each whole repetition.
    pairs = zip(peer.samples, ours.samples, strict=True)
    return spread([theirs / ours for theirs, ours in pairs])


@dataclass(slots=True)
class Results:
    """All of a run.

    Attributes
    ----------
    about : dict
        Commit, versions, machine, environment, settings.
    limits : dict
        Number of threads, as text -> what the machine can do with them at most:
        ``operations`` a second by data type, ``stream_bytes`` a second.
    others : dict
        Number of threads -> cell -> fraction of the CPUs' time that others took.
    peers : list of str
        Columns of the tables.
    """

    about: dict[str, Any]
    peers: list[str]
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, dict[str, float]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def get(self, cell: str, threads: int, peer: str) -> Entry | None:
        """Entry of a peer; None if it was not measured."""
        wanted = (cell, threads, peer)
        return next((e for e in self.entries if (e.cell, e.threads, e.peer) == wanted), None)

    def ratio(self, cell: str, threads: int, peer: str) -> Estimate | None:
        """Peer's time over ours."""
        theirs, ours = self.get(cell, threads, peer), self.get(cell, threads, OURS)
        return None if theirs is None or ours is None else ratio(theirs, ours)

    def error(self, cell: str, peer: str) -> float | None:
        """Largest error of a peer in a cell; the `rms` if there is one."""
        entries = (e for e in self.entries if (e.cell, e.peer) == (cell, peer))
        errors = (e.error if e.rms is None else e.rms for e in entries)
        return max((error for error in errors if error is not None), default=None)

    def fastest(self, cell: str, threads: int, peers: Iterable[str]) -> tuple[str, Estimate] | None:
        """The fastest of some peers and its ratio."""
        found = [(peer, self.ratio(cell, threads, peer)) for peer in peers]
        known = [(peer, value) for peer, value in found if value is not None]
        return min(known, key=lambda pair: pair[1].median, default=None)

    def cells(self, threads: int) -> list[str]:
        """Cells that were measured, in order."""
        return list(dict.fromkeys(e.cell for e in self.entries if e.threads == threads))

    def threads(self) -> list[int]:
        """Numbers of threads, in order."""
        return list(dict.fromkeys(e.threads for e in self.entries))

    def write(self, path: Path) -> None:
        """Keep it all, raw samples included."""
        write_record(path, FORMAT, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` kept.

        Raises
        ------
        FileError
            The file is cut, or of another format.
        """
        with Reading(path):
            return cls.of(read_record(path, FORMAT))

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Results:
        """Results from what `asdict` made of them."""
        return cls(**{**stored, "entries": [Entry(**entry) for entry in stored["entries"]]})


def fraction_of_limit(
    seconds: float, operations: int, keys_bytes: int, dtype: str, limits: Mapping[str, Any]
) -> tuple[float, str]:
    """What fraction of the machine's limit a time reaches, and which limit that is.

    The least time is that of the arithmetic at its peak (of FMA or, for bfloat16, of tiles) or
    that of reading keys and values once from memory, whichever is longer.
    """
    arithmetic = operations / limits["operations"].get(dtype, math.inf)
    reading = keys_bytes / limits["stream_bytes"]
    return max(arithmetic, reading) / seconds, "compute" if arithmetic >= reading else "memory"
