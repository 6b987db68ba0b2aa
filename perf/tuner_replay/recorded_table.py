"""`Table`: every point of a space, measured in the same repetitions; and the file it is kept in.

The file is JSON in the style of T4, the exchange format for auto-tuning results that Kernel Tuner
writes: ``results`` with ``configuration``, ``invalidity``, ``correctness`` and ``times``.  Here,
``runtimes`` in ``times`` are raw repetitions in seconds, and ``benchmark`` is what one repetition
took with all calls of its sample.  ``metadata`` holds what T4 has no place for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn._errors import ArgumentError, ConfigError
from fastattn.tuner.space import Gene, Point, Space, Value
from perf.files import write_whole

__all__ = ["LEAST_REPETITIONS", "Table", "read", "write"]

SCHEMA_VERSION = "1.0.0"
LEAST_REPETITIONS = 5  # fewer say nothing about noise
_POLISHES = 3

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Times of every point of a space, repetition by repetition.

    Attributes
    ----------
    name : str
    space : Space
    baseline : Point
        The default, which a search compares with.
    seconds : ndarray, (points, repetitions)
        Seconds of a call, from one sample each; NaN for a point that failed.
    sample_seconds : ndarray, (points,)
        Seconds of the kernel that a sample takes, including the call that is dropped.
    processes : tuple of int
        Number of the process in which each repetition was measured.
    failures : mapping
        Points that could not be measured, and why.
    metadata : mapping
        Workload, machine, versions and whatever else a reader wants to know.
    ratios : ndarray, (points,)
        The truth that replays are judged by: time over the baseline's, from the medians over the
        repetitions, after each repetition is freed of its effect on the better half of the points;
        infinite for a point that failed.
    regrets : ndarray, (points,)
        Each ratio over the least ratio, less 1.
    """

    name: str
    space: Space
    baseline: Point
    seconds: Array
    sample_seconds: Array
    processes: tuple[int, ...]
    failures: Mapping[Point, str]
    metadata: Mapping[str, Any]
    ratios: Array = field(init=False)
    regrets: Array = field(init=False)

    def __post_init__(self) -> None:
        logs = self._freed()
        own = np.median(logs, axis=1)
        ratios = np.exp(own - own[self.space.index(self.baseline)])
        ratios[np.isnan(ratios)] = np.inf
        object.__setattr__(self, "ratios", ratios)
        object.__setattr__(self, "regrets", ratios / ratios.min() - 1)

    def _freed(self) -> Array:
        """Logarithms of the seconds, less each repetition's own effect.

        Median polish (Tukey, "Exploratory Data Analysis", 1977) by the better half: what slows
        the good points of a repetition slows all; one baseline's noise would enter every ratio.
        """
        logs = np.log(self.seconds)
        own = np.median(logs, axis=1)
        good = own <= np.nanmedian(own)
        for _ in range(_POLISHES):
            repetitions = np.median(logs[good] - own[good, None], axis=0)
            own = np.median(logs - repetitions, axis=1)
        freed: Array = logs - repetitions
        return freed

    @property
    def best(self) -> Point:
        """The point with the least ratio."""
        return self.space.points[int(np.argmin(self.ratios))]

    @property
    def resolution(self) -> float:
        """Half of the 95 % interval of a good point's time, as a share.

        It is the median over the best tenth of the points; the standard error of each point's
        median comes from its interquartile range.  Differences below it may be noise that was
        frozen into the table.
        """
        best = np.argsort(self.ratios)[: max(2, len(self.space) // 10)]
        low, high = np.quantile(self._freed()[best], (0.25, 0.75), axis=1)
        deviation = float(np.median(high - low)) / 1.349
        return 1.96 * math.sqrt(math.pi / 2 / len(self.processes)) * deviation


def write(table: Table, path: Path) -> None:
    """Write a table, one result per line; meanwhile, a reader gets the old file or the new one."""
    lines = [
        "{",
        f'"schema_version": "{SCHEMA_VERSION}",',
        f'"metadata": {json.dumps(_head(table), indent=1)},',
        '"results": [',
        ",\n".join(_result(table, at, point) for at, point in enumerate(table.space.points)),
        "]",
        "}",
    ]
    write_whole(path, "\n".join(lines) + "\n")


def read(path: Path) -> Table:
    """Read a table.

    Raises
    ------
    ArgumentError
        The file is not a table, or not a whole one.
    """
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")), path.stem)
    except OSError as error:
        reason = error.strerror or str(error)
    except _Damaged as error:
        reason = str(error)
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ArgumentError(
        "table",
        f"{str(path)!r} ({reason})",
        "a file that `record` wrote",
        "restore it, or remove it and record it again",
    )


class _Damaged(Exception):
    """A table is damaged; the message says how."""


def _head(table: Table) -> dict[str, Any]:
    space = table.space
    return {
        "space": {
            "name": space.name,
            "genes": [
                {
                    "name": gene.name,
                    "values": list(gene.values),
                    "ordered": gene.ordered,
                    "meaning": gene.meaning,
                }
                for gene in space.genes
            ],
        },
        "control": space.values(table.baseline),
        "objective": "time",
        "unit": "seconds",
        "processes": list(table.processes),
        **table.metadata,
    }


def _result(table: Table, at: int, point: Point) -> str:
    fault = table.failures.get(point)
    line: dict[str, Any] = {
        "configuration": table.space.values(point),
        "invalidity": "correct" if fault is None else "runtime",
        "correctness": int(fault is None),
    }
    if fault is not None:
        line["failure"] = fault
    text = json.dumps(line, separators=(",", ":"))
    runtimes = "" if fault is not None else ",".join(map(_short, table.seconds[at].tolist()))
    sample = _short(0.0 if fault is not None else float(table.sample_seconds[at]))
    return f'{text[:-1]},"times":{{"benchmark":{sample},"runtimes":[{runtimes}]}}}}'


def _short(seconds: float) -> str:
    """Four significant digits, in the shorter of two notations."""
    if seconds == 0:
        return "0"
    mantissa, exponent = f"{seconds:.3e}".split("e")
    digits = mantissa.replace(".", "").rstrip("0")
    scientific = f"{digits}e{int(exponent) - len(digits) + 1}"
    plain = f"{float(f'{seconds:.4g}'):.12f}".rstrip("0").rstrip(".")
    return min(scientific, plain, key=len)


def _parsed(document: Mapping[str, Any], name: str) -> Table:
    if document["schema_version"] != SCHEMA_VERSION:
        raise _Damaged(f"schema_version {document['schema_version']!r}, not {SCHEMA_VERSION!r}")
    metadata = dict(document["metadata"])
    described, baseline = metadata.pop("space"), metadata.pop("control")
    processes = tuple(int(number) for number in metadata.pop("processes"))
    for unused in ("objective", "unit"):
        del metadata[unused]
    results: Sequence[Mapping[str, Any]] = document["results"]
    space = _space(described, [row["configuration"] for row in results])
    seconds = np.full((len(space), len(processes)), np.nan)
    sample_seconds, failures = np.zeros(len(space)), {}
    for at, row in enumerate(results):
        if row["invalidity"] != "correct":
            failures[space.points[at]] = str(row["failure"])
            continue
        runtimes = row["times"]["runtimes"]
        if len(runtimes) != len(processes):
            raise _Damaged(f"result {at} has {len(runtimes)} runtimes of {len(processes)}")
        seconds[at], sample_seconds[at] = runtimes, row["times"]["benchmark"]
    whole = space.point(baseline)
    good = np.isfinite(seconds) & (seconds > 0)
    if whole in failures or not len(processes):
        raise _Damaged("the baseline was not measured")
    bad = [at for at, point in enumerate(space.points) if point not in failures]
    bad = [at for at in bad if not good[at].all() or not sample_seconds[at] > 0]
    if bad:
        raise _Damaged(f"result {bad[0]} has times that are none")
    return Table(name, space, whole, seconds, sample_seconds, processes, failures, metadata)


def _space(described: Mapping[str, Any], rows: Sequence[Mapping[str, Value]]) -> Space:
    genes = tuple(
        Gene(gene["name"], tuple(gene["values"]), bool(gene["ordered"]), gene["meaning"])
        for gene in described["genes"]
    )
    names = [gene.name for gene in genes]
    points: list[Point] = []
    for at, row in enumerate(rows):
        if list(row) != names:
            raise _Damaged(f"result {at} has other genes than the space")
        points.append(tuple(gene.values.index(row[gene.name]) for gene in genes))
    if len(set(points)) != len(points) or not points:
        raise _Damaged("a configuration stands there twice, or none at all")
    return Space(described["name"], genes, tuple(points))
