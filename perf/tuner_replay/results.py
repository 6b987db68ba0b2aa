"""Results of replays: a `Cell` for each strategy on each table, and the file they are kept in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.files import Reading, write_whole
from perf.tuner_replay.recorded_table import Table
from perf.tuner_replay.replay import Replayed
from perf.tuner_replay.workloads import TUNING

__all__ = ["CLOSE", "EVALUATIONS", "NEAR", "SECONDS", "Cell", "Results"]

EVALUATIONS, SECONDS = "evaluations", "kernel-seconds"  # what is equal for all strategies
CLOSE, NEAR = 0.02, 0.05  # regrets that count as found, and as nearly found


@dataclass(frozen=True, slots=True)
class Cell:
    """One strategy on one table, with seeds 0, 1, ...

    Attributes
    ----------
    setting, equal, table, strategy : str
    budget : int
        Evaluations that it was given.
    points : int
        Number of points of the space.
    held_out : bool
        Whether the table took no part in choosing hyperparameters.
    regrets : tuple of float
    winners : tuple of int
        Places of the winners in the space.
    evaluations, explored_seconds, kernel_seconds, optimiser_seconds : float
        Medians over the replays.
    course : tuple of float
        Share of the replays whose leader is within 2 %, after 1, 2, ... evaluations.
    """

    setting: str
    equal: str
    table: str
    strategy: str
    budget: int
    points: int
    held_out: bool
    regrets: tuple[float, ...]
    winners: tuple[int, ...]
    evaluations: float
    explored_seconds: float
    kernel_seconds: float
    optimiser_seconds: float
    course: tuple[float, ...]

    @classmethod
    def of(
        cls,
        setting: str,
        equal: str,
        table: Table,
        strategy: str,
        budget: int,
        replayed: Sequence[Replayed],
    ) -> Cell:
        """Sum up replays."""
        courses = np.array([one.course for one in replayed], dtype=int)
        close = (table.regrets[courses] <= CLOSE).mean(axis=0)
        names = ("evaluations", "explored_seconds", "kernel_seconds", "optimiser_seconds")
        medians = {
            name: float(f"{statistics.median(getattr(one, name) for one in replayed):.4g}")
            for name in names
        }
        return cls(
            setting=setting,
            equal=equal,
            table=table.name,
            strategy=strategy,
            budget=budget,
            points=len(table.space),
            held_out=table.name not in TUNING,
            regrets=tuple(float(f"{one.regret:.4g}") for one in replayed),
            winners=tuple(one.winner for one in replayed),
            course=tuple(float(f"{share:.4g}") for share in close),
            **medians,
        )

    @property
    def close(self) -> NDArray[np.bool_]:
        """Which replays came within 2 %."""
        return np.array(self.regrets) <= CLOSE

    @property
    def flips(self) -> float:
        """Share of the pairs of seeds that choose different winners."""
        count = len(self.winners)
        _, same = np.unique(np.array(self.winners), return_counts=True)
        return 1 - float((same * (same - 1)).sum()) / max(1, count * (count - 1))


@dataclass(slots=True)
class Results:
    """All cells, and what a reader wants to know about them."""

    about: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)

    def select(self, setting: str, equal: str, held_out: bool | None = None) -> list[Cell]:
        """Cells of a setting: of the held-out tables, of the others, or of all."""
        return [
            cell
            for cell in self.cells
            if (cell.setting, cell.equal) == (setting, equal)
            and (held_out is None or cell.held_out == held_out)
        ]

    def settings(self) -> list[tuple[str, str]]:
        """Settings and what is equal in them, in order."""
        return list(dict.fromkeys((cell.setting, cell.equal) for cell in self.cells))

    def write(self, path: Path) -> None:
        """Write one cell per line."""
        cells = ",\n".join(json.dumps(asdict(cell), separators=(",", ":")) for cell in self.cells)
        write_whole(path, f'{{"about": {json.dumps(self.about)},\n"cells": [\n{cells}\n]}}\n')

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote.

        Raises
        ------
        FileError
            The file is something else.
        """
        with Reading(path):
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(dict(document["about"]), [_cell(row) for row in document["cells"]])


def _cell(row: Mapping[str, Any]) -> Cell:
    arrays = {name: tuple(row[name]) for name in ("regrets", "winners", "course")}
    return Cell(**{**row, **arrays})
