"""Rounds of live processes: one process of each side, on the same CPU, in millisecond turns."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import child, common, sampling
from perf.paired.cells import Cell
from perf.paired.engine import SourceError, Trouble
from perf.paired.rule import Round, Rule, Sample, summarise

ANSWER_SECONDS = 300.0
START_SECONDS = 60.0
SIDES = ("base", "head")


@dataclass(frozen=True, slots=True)
class Side:
    """An installed revision.

    Attributes
    ----------
    name : str
        "base" or "head".
    python : str
        Interpreter, the same for both sides.
    folder : Path
        Folder that holds the package fastattn.
    delay : float or None
        Share of its duration by which each call is delayed, for calibration; None times the calls
        as they are.
    """

    name: str
    python: str
    folder: Path
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How much of a cell is measured in a round.

    Attributes
    ----------
    block_seconds : float
        Calls are repeated until a turn lasts this long on the slower side.
    pairs, least_pairs : int
        Number of pairs of turns: at most, and in any case.
    cell_seconds : float
        Time after which no more pairs than the least are taken.
    """

    block_seconds: float = 0.003
    pairs: int = 100
    least_pairs: int = 8
    cell_seconds: float = 0.6


class WorkerError(RuntimeError):
    """A worker ended, or does not answer."""


class Process:
    """This process's end of a worker."""

    def __init__(self, side: Side, cpus: Sequence[int] | None, seed: int) -> None:
        self.side = side
        request = {"cpus": cpus and list(cpus), "path": str(side.folder), "delay": side.delay}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        command = child.command("perf.paired.worker", request, side.python)
        self._process = subprocess.Popen(
            command,
            env=environment(side, seed),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def send(self, do: str, **arguments: Any) -> None:
        """Give an order.

        Raises
        ------
        WorkerError
            The worker has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Wait for the answer to the last order.

        Raises
        ------
        WorkerError
            The worker has ended, or says nothing for `seconds`.
        """
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise WorkerError(f"{self.side.name}: no answer in {seconds:g} s")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise self._ended()
            line += data
        found: dict[str, Any] = json.loads(line)
        return found

    def request(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        self.send(do, **arguments)
        return self.answer()

    def _ended(self) -> WorkerError:
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        return WorkerError(f"{self.side.name}: its process ended with {status}{said}")


def environment(side: Side, seed: int) -> dict[str, str]:
    """Environment of a worker: the same on both sides, except for where the package is.

    The hash seed differs from round to round, as addresses do, but not within a round.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FASTATTN_"))}
    return kept | {
        "PYTHONPATH": child.search_path(side.folder),
        "PYTHONHASHSEED": str(seed % 2**32),
        "FASTATTN_WISDOM": "off",
        "NUMBA_CACHE_DIR": str(side.folder.parent / f"numba-{side.folder.name}"),
        **dict.fromkeys(common.BLAS_VARIABLES, str(common.THREADS)),
    }


class Workers:
    """A source of rounds, with two processes for each.

    Parameters
    ----------
    sides : sequence of Side
        Base and head.  Each round runs from fresh copies of their folders; otherwise the code
        would lie in the same pages of the file cache in all rounds.
    cells : mapping
        Cells by name.
    cpus : sequence of int or None
        CPUs that both sides are bound to; None leaves the choice to the system.
    on_cell : callable
        Called with the name of each cell when it begins.
    end : float or None
        Time on the monotonic clock: what has not begun by then is left out.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        cells: Mapping[str, Cell],
        rule: Rule,
        folder: Path,
        pace: Pace = Pace(),
        cpus: Sequence[int] | None = None,
        threads: int = common.THREADS,
        seed: int = 0,
        on_cell: Callable[[str], None] = lambda name: None,
        end: float | None = None,
    ) -> None:
        self._sides, self._cells, self._rule, self._pace = sides, cells, rule, pace
        self._folder, self._cpus, self._threads, self._end = folder, cpus, threads, end
        self._random, self._on_cell = random.Random(seed), on_cell
        self._calls: dict[str, int] = {}  # the same for both sides and for all rounds
        self._deaths: dict[str, int] = {}
        self.troubles: dict[str, Trouble] = {}
        self.facts: dict[str, Any] = {}

    def round(self, names: Sequence[str]) -> dict[str, Round]:
        """Measure one round; a cell in which a process ends a second time is given up.

        Raises
        ------
        SourceError
            A side does not start.
        """
        found: dict[str, Round] = {}
        left = self._random.sample(list(names), len(names))
        while left:
            with ExitStack() as stack:
                try:
                    processes = self._start(stack)
                except WorkerError as error:
                    raise SourceError(str(error)) from None
                try:
                    while left:
                        if self._late():
                            return found
                        self._on_cell(left[-1])
                        one = self._cell(left[-1], processes)
                        name = left.pop()
                        if one is not None:
                            found[name] = one
                except WorkerError as error:
                    self._died(left, error)
        return found

    def _late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _died(self, left: list[str], error: WorkerError) -> None:
        """Give up the cell in hand if a process has ended in it before."""
        self._deaths[left[-1]] = self._deaths.get(left[-1], 0) + 1
        if self._deaths[left[-1]] > 1:
            self.troubles[left.pop()] = Trouble("failed", str(error))

    def _start(self, stack: ExitStack) -> dict[str, Process]:
        """Start both processes from fresh copies, in random order."""
        seed = self._random.getrandbits(32)
        copies = []
        for index, side in enumerate(self._sides):
            folder = self._folder / str(index)  # paths of equal length
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(side.folder, folder)
            copies.append(replace(side, folder=folder))
        processes = {
            side.name: stack.enter_context(Process(side, self._cpus, seed))
            for side in self._random.sample(copies, len(copies))
        }
        for name in SIDES:
            processes[name].send("facts")
        for name in SIDES:
            self.facts[name] = processes[name].answer(START_SECONDS)
        return processes

    def _cell(self, name: str, processes: Mapping[str, Process]) -> Round | None:
        """Measure both sides in turns; None if one of them cannot run or is wrong."""
        cell, first = self._cells[name], name not in self._calls
        order = {
            "case": asdict(cell.case),
            "impl": cell.impl,
            "threads": self._threads,
            "check": first,
        }
        for side in SIDES:  # one after the other, as they share a CPU; the base first
            answer = processes[side].request("bind", **order)
            if "wrong" in answer:
                self.troubles[name] = Trouble("wrong", f"{side}: {answer['wrong']}")
                return None
            if "cannot" in answer:
                kind = "cannot" if side == "base" else "failed"
                self.troubles[name] = Trouble(kind, f"{side}: {answer['cannot']}")
                return None
        if first:
            seconds = self._pace.block_seconds
            rates = [processes[side].request("rate", seconds=seconds)["calls"] for side in SIDES]
            self._calls[name] = min(rates)
        pairs: list[tuple[Sample, Sample]] = []
        orders = sampling.balanced_orders(SIDES, self._random)
        self._pair(processes, next(orders), 1 if first else self._calls[name])  # warms up
        spent = 0.0
        while len(pairs) < self._pace.pairs and not self._late():
            base, head = self._pair(processes, next(orders), self._calls[name])
            pairs.append((base, head))
            spent += base.wall_seconds + head.wall_seconds
            # Orders are balanced only in whole groups of ABBA.
            enough = len(pairs) >= self._pace.least_pairs and len(pairs) % 2 == 0
            if enough and spent >= self._pace.cell_seconds:
                break
        return summarise(pairs, self._rule) if pairs else None

    @staticmethod
    def _pair(
        processes: Mapping[str, Process], order: Sequence[str], calls: int
    ) -> tuple[Sample, Sample]:
        samples = {side: Sample(**processes[side].request("sample", calls=calls)) for side in order}
        return samples["base"], samples["head"]
