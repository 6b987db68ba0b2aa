"""Measure what the report shows, step by step, into a record that is kept after each step."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

from benchmarks import common, conditions, roofline
from benchmarks.child import ask
from benchmarks.common import DIMS, IMPLS, MASKED, REGIMES
from perf import system, threading
from perf.peers import command
from perf.study.data import Record, Round
from perf.study.published import STUDY_DTYPE

BUDGET = 18  # evaluations of the tuner, as the study had
ROUND_TIMEOUT_SECONDS = 300.0
PEERS = ("cython", "numpy", "torch-sdpa", "torch-hand", "torch-mha")

Tell = Callable[[float, str], None]  # share of the whole that is done, what is being done


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured; never what a number means.

    Attributes
    ----------
    dims : tuple of int
    rounds : int
        Processes for each dim that count; at most as many again stand in for contended ones.
    seconds : float
        Time for the turns of a round.
    regimes : tuple of str
        Regimes that are compared with the roofline.
    regime_rounds : int
        Processes for each regime.
    cells : tuple of str
        Cells of `perf.peers` that are measured beside torch.
    cell_seconds : float
        Time for the turns of a cell.
    sharing_repetitions : int
        Blocks of calls for each case and load, with either kind of threads.
    """

    dims: tuple[int, ...]
    rounds: int
    seconds: float
    regimes: tuple[str, ...]
    regime_rounds: int
    cells: tuple[str, ...]
    cell_seconds: float
    sharing_repetitions: int

    def shares(self) -> dict[str, float]:
        """About how long each step takes, as a share of the whole."""
        threads = len(_thread_counts())
        steps = {
            "tuner": 5.0 * len(self.dims),
            "rounds": (self.seconds + 3.0) * self.rounds * len(self.dims),
            "roofline": 4.0 * self.regime_rounds * len(self.regimes),
            "sharing": 0.25
            * len(threading.CASES)
            * len(threading.LOADS)
            * self.sharing_repetitions,
            "peers": (2.0 * self.cell_seconds + 3.0) * len(self.cells) * threads,
        }
        return {name: seconds / sum(steps.values()) for name, seconds in steps.items()}


FULL = Extent(
    dims=DIMS,
    rounds=9,
    seconds=6.0,
    regimes=(*REGIMES, *MASKED),
    regime_rounds=3,
    cells=("blog", "dim-64", "dim-256", "dim-1024", "vit", "bert", "prefill-2k", "causal-4k"),
    cell_seconds=8.0,
    sharing_repetitions=15,
)
QUICK = Extent(
    dims=(64, 128),
    rounds=2,
    seconds=0.5,
    regimes=("dim-256", "small"),
    regime_rounds=1,
    cells=("blog",),
    cell_seconds=0.5,
    sharing_repetitions=2,
)


def about(extent: Extent) -> dict[str, Any]:
    """Machine, versions and commit, and how much is measured."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return command.about(extent.cell_seconds) | {
        "extent": asdict(extent),
        "cpus": command.usable_cpus(),
        "load_average": load,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def run(record: Record, extent: Extent, keep: Callable[[], None], tell: Tell) -> None:
    """Measure everything, calling `keep` after each step; an interruption ends the measuring.

    This sets the environment of the current process, for what is measured in it.
    """
    os.environ.update(dict.fromkeys(common.BLAS_VARIABLES, str(common.THREADS)) | common.UNTUNED)
    before = 0.0
    try:
        for name, step in (
            ("tuner", tune),
            ("rounds", compare),
            ("roofline", hold_against_roofline),
            ("sharing", compare_sharing),
            ("peers", beside_torch),
        ):
            share = extent.shares()[name]

            def report(
                done: float, text: str, before: float = before, share: float = share
            ) -> None:
                tell(before + share * min(1.0, done), text)

            step(record, extent, keep, report)
            before += share
    except KeyboardInterrupt:
        record.interrupted = True
    keep()


def tune(record: Record, extent: Extent, keep: Callable[[], None], tell: Tell) -> None:
    """Search the study's space for each dim, as the study did.

    Raises
    ------
    KeyboardInterrupt
        The search was interrupted.
    """
    import fastattn

    for number, dim in enumerate(extent.dims):

        def heard(event: Any, dim: int = dim, number: int = number) -> None:
            done = (number + min(1.0, event.done / BUDGET)) / len(extent.dims)
            tell(done, f"tuner, dim {dim}: {event.phase} {event.done}")

        result = fastattn.tune(
            (1, 1, 1, dim, dim, dim),
            STUDY_DTYPE,
            space="study",
            strategy="genetic",
            budget=BUDGET,
            seed=0,
            remember=False,
            progress=heard,
        )
        if result.interrupted:
            raise KeyboardInterrupt
        record.tunings[str(dim)] = result.to_json()
        keep()


def compare(record: Record, extent: Extent, keep: Callable[[], None], tell: Tell) -> None:
    """Rounds of all dims in turn; then, up to a limit, more where rounds were contended."""
    total = extent.rounds * len(extent.dims)
    done = 0
    for number in range(2 * extent.rounds):
        for dim in extent.dims:
            found = record.rounds.setdefault(str(dim), [])
            idle = sum((one.others or 0.0) <= conditions.LOST_SHARE for one in record.timed(dim))
            if number >= extent.rounds and idle >= extent.rounds:
                continue
            again = " again, for it was contended" if number >= extent.rounds else ""
            tell(done / total, f"dim {dim}, process {number + 1} of {extent.rounds}{again}")
            found.append(_round(dim, record.tunings[str(dim)], extent.seconds, seed=number))
            done += 1
        keep()


def _round(dim: int, tuning: dict[str, Any], seconds: float, seed: int) -> Round:
    """One round in a process of its own."""
    request = {
        "dim": dim,
        "dtype": tuning["dtype"],
        "config": tuning["config"],
        "seconds": seconds,
        "seed": seed,
    }
    environment = system.environment(command.usable_cpus())
    try:
        return Round(**ask("perf.study.turns", request, ROUND_TIMEOUT_SECONDS, environment))
    except RuntimeError as error:
        first, *others = str(error).strip().splitlines()
        reason = ": ".join((first, *others[-1:]))
        return Round(failures=dict.fromkeys(IMPLS, reason))


def hold_against_roofline(
    record: Record, extent: Extent, keep: Callable[[], None], tell: Tell
) -> None:
    """Fraction of the machine's peak for each regime, by ``cython`` on one thread."""
    others = system.Others()
    profile = replace(common.profile(), rounds=extent.regime_rounds)
    cases = REGIMES | MASKED
    for number, name in enumerate(extent.regimes):
        tell(number / len(extent.regimes), f"roofline, {name}")
        ((_, cell),) = roofline.measure({name: cases[name]}, ["cython"], profile).items()
        record.roofline[name] = {
            "time": cell.time,
            "time_over_peak": cell.time_over_peak,
            "reason": cell.failed or cell.skipped,
        }
        record.roofline_load = {"others": others.share(), "stolen": others.stolen()}
        keep()


def compare_sharing(record: Record, extent: Extent, keep: Callable[[], None], tell: Tell) -> None:
    """Threads of OpenMP beside those of the pool, idle and beside a busy process."""
    threads = command.usable_cpus()
    if threads < 2:
        record.sharing = {"reason": "it takes two CPUs"}
        return
    found: list[dict[str, Any]] = []
    total = len(threading.CASES) * len(threading.LOADS)
    try:
        for one in threading.compare(threads=threads, repetitions=extent.sharing_repetitions):
            found.append(asdict(one))
            tell(len(found) / total, f"threading, {one.load}, {one.case}")
    except RuntimeError as error:
        record.sharing = {"reason": str(error)}
    else:
        record.sharing = {"ratios": found}
    keep()


def beside_torch(record: Record, extent: Extent, keep: Callable[[], None], tell: Tell) -> None:
    """Our calls beside torch's, by `perf.peers`; a reason if torch is not installed."""
    from perf.peers.results import Results

    if find_spec("torch") is None:
        record.peers_reason = "torch is not installed here: `make peers` installs it"
        return
    results = Results(command.about(extent.cell_seconds), list(PEERS))
    threads = _thread_counts()
    total = len(extent.cells) * len(threads)

    def heard(cell: str, count: int, doing: str) -> None:
        cells = {(e.cell, e.threads) for e in results.entries}
        tell(max(0, len(cells) - 1) / total, f"torch, {cell}, threads {count}: {doing}")
        if not doing:
            record.peers = asdict(results)
            keep()

    try:
        command.run(results, extent.cells, threads, extent.cell_seconds, heard)
    except RuntimeError as error:
        record.peers_reason = str(error)


def _thread_counts() -> Sequence[int]:
    return tuple(dict.fromkeys((1, command.usable_cpus())))


def differences(one: Record, other: Record) -> dict[tuple[int, str], float]:
    """Speed-ups of one run over those of another, minus one, by dim and implementation."""
    found = {}
    for dim in sorted(set(one.dims()) & set(other.dims())):
        for impl in IMPLS[1:]:
            a, b = one.speedup(dim, impl), other.speedup(dim, impl)
            if a is not None and b is not None:
                found[dim, impl] = a.median / b.median - 1
    return found


def median_load(record: Record) -> dict[str, float]:
    """Median and greatest share that others took during the rounds, and median share stolen."""
    rounds = [one for dim in record.dims() for one in record.kept(dim)]
    others = [one.others or 0.0 for one in rounds] or [0.0]
    stolen = [one.stolen or 0.0 for one in rounds] or [0.0]
    return {
        "others": statistics.median(others),
        "most": max(others),
        "stolen": statistics.median(stolen),
    }
