"""Many replays: every strategy on every table, at equal evaluations and at equal kernel-seconds."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from fastattn._errors import ArgumentError
from fastattn.tuner.space import Point
from perf.tuner_replay import recorded_table, synthetic
from perf.tuner_replay.recorded_table import LEAST_REPETITIONS, Table
from perf.tuner_replay.replay import Replayed, replay, warm_start
from perf.tuner_replay.results import EVALUATIONS, SECONDS, Cell, Results
from perf.tuner_replay.rivals import RIVALS, maker

__all__ = ["OURS", "SETTINGS", "Setting", "load", "run"]

OURS = "genetic"
SETTINGS = ("study-18", "kernel-18", "kernel-50", "kernel-warm-18")
_CHUNK = 25  # replays that a process is given at once

Tell = Callable[[int, int, str], None]  # chunks done, chunks in all, what is being done


@dataclass(frozen=True, slots=True)
class Setting:
    """What searches get: ``kernel-50``, or ``kernel-warm-18`` with remembered winners."""

    space: str
    budget: int
    warm: bool

    @classmethod
    def parse(cls, name: str) -> Setting:
        """Read a name.

        Raises
        ------
        ArgumentError
            It is not the name of a setting.
        """
        space, *options = name.split("-")
        warm = options[:1] == ["warm"]
        number = options[warm:]
        if len(number) != 1 or not number[0].isdecimal() or int(number[0]) < 1:
            raise ArgumentError(
                "settings", repr(name), "SPACE-BUDGET or SPACE-warm-BUDGET", "see kernel-50"
            )
        return cls(space, int(number[0]), warm)

    @property
    def name(self) -> str:
        """Name of the setting, as `parse` reads it."""
        return f"{self.space}-warm-{self.budget}" if self.warm else f"{self.space}-{self.budget}"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Replays of one cell, for one process."""

    source: str
    strategy: str
    budget: int
    known: tuple[Point, ...]
    seeds: range


@functools.lru_cache(maxsize=64)
def load(source: str) -> Table:
    """A table by its path, or a synthetic one by its name.

    Raises
    ------
    ArgumentError
        There is no such table, it is damaged, or it holds too few repetitions.
    """
    if not source.endswith(".json"):
        return synthetic.make(source)
    table = recorded_table.read(Path(source))
    if len(table.processes) < LEAST_REPETITIONS:
        raise ArgumentError(
            "table",
            f"{table.name} with {len(table.processes)} repetitions",
            f"{LEAST_REPETITIONS} or more",
            f"go on recording: `record --tables {table.name}`",
        )
    return table


def run(
    sources: Sequence[str],
    settings: Sequence[Setting],
    strategies: Sequence[str],
    *,
    replays: int,
    rival_replays: int,
    processes: int,
    known: Sequence[str],
    neighbours: int,
    results: Results,
    tell: Tell = lambda done, total, text: None,
) -> Iterator[Setting]:
    """Replay into `results`, setting by setting; yields each setting when it is complete.

    Parameters
    ----------
    sources : sequence of str
        Sources of the tables; see `load`.
    replays, rival_replays : int
        Searches of each table by each of our strategies, and by each rival.
    processes : int
    known : sequence of str
        Sources of all tables whose winners a warm start may know.
    neighbours : int
        How many of them it knows: those of the nearest problems.
    """
    counts = {name: rival_replays if name in RIVALS else replays for name in strategies}
    found = {source: load(source) for source in sources}
    # On matrices of 50 x 50, BLAS's threads would take each other's CPUs.
    os.environ.update(dict.fromkeys(common.BLAS_VARIABLES, "1"))
    spawned = multiprocessing.get_context("spawn")
    # Only this process handles Ctrl-C.
    with spawned.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for setting in settings:
            mine = {s: table for s, table in found.items() if table.space.name == setting.space}
            recorded = map(load, known) if setting.warm else iter(())
            near = [table for table in recorded if table.space.name == setting.space]
            starts = {s: warm_start(table, near, neighbours) for s, table in mine.items()}

            def measure(
                wanted: Mapping[tuple[str, str], int],
                starts: Mapping[str, tuple[Point, ...]] = starts,
                text: str = setting.name,
            ) -> dict[tuple[str, str], list[Replayed]]:
                """Replays by source and strategy, with the budgets in `wanted`."""
                chunks = [
                    _Chunk(s, name, budget, starts[s], range(at, min(at + _CHUNK, counts[name])))
                    for (s, name), budget in wanted.items()
                    for at in range(0, counts[name], _CHUNK)
                ]
                gathered: dict[tuple[str, str], list[Replayed]] = {key: [] for key in wanted}
                for done, (chunk, searches) in enumerate(pool.imap(_work, chunks), start=1):
                    gathered[chunk.source, chunk.strategy] += searches
                    tell(done, len(chunks), text)
                return gathered

            pairs = [(s, name) for s in mine for name in strategies]
            equal = measure(dict.fromkeys(pairs, setting.budget))
            _keep(results, setting, mine, EVALUATIONS, equal, {})
            if OURS in strategies:
                budgets = _budgets(equal, mine, setting.budget)
                others = {key: b for key, b in budgets.items() if b != setting.budget}
                again = measure(others, text=f"{setting.name}, equal seconds")
                _keep(results, setting, mine, SECONDS, equal | again, budgets)
            yield setting


def _work(chunk: _Chunk) -> tuple[_Chunk, list[Replayed]]:
    table, make = load(chunk.source), maker(chunk.strategy)
    replayed = [replay(table, make, chunk.budget, seed, chunk.known) for seed in chunk.seeds]
    return chunk, replayed


def _budgets(
    found: Mapping[tuple[str, str], list[Replayed]], tables_: Mapping[str, Table], budget: int
) -> dict[tuple[str, str], int]:
    """Evaluations with which a strategy spends, in the median before the final, what ours did."""

    def spent(key: tuple[str, str]) -> float:
        return statistics.median(one.explored_seconds for one in found[key])

    budgets = {}
    for source, name in found:
        share = spent((source, OURS)) / max(spent((source, name)), 1e-9)
        most = max(budget, len(tables_[source].space))
        budgets[source, name] = min(most, max(1, round(budget * share)))
    return budgets


def _keep(
    results: Results,
    setting: Setting,
    tables_: Mapping[str, Table],
    equal: str,
    found: Mapping[tuple[str, str], list[Replayed]],
    budgets: Mapping[tuple[str, str], int],
) -> None:
    for (source, name), replayed in found.items():
        table = tables_[source]
        budget = budgets.get((source, name), setting.budget)
        results.cells.append(Cell.of(setting.name, equal, table, name, budget, replayed))
