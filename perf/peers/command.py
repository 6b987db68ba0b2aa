"""Run the processes of `timing`, one for each number of threads, and gather what they report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perf import children, git, system
from perf.conditions import FORCING, forcing
from perf.peers import timing
from perf.peers.results import Entry, Results

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = (
    *("fastattn", "numpy", "numba", "ml_dtypes", "torch"),
    *("onnxruntime", "onnx", "openvino", "jax", "jaxlib", "mlx", "mlx-cpu"),
)
# Variables that change speeds and may be set from outside.
VARIABLES = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "XLA_", "JAX_", "ONEDNN_", "DNNL_"),
    *("ATEN_", "TORCH_", "ORT_", "OV_", "FASTATTN_", "NUMBA_", "MALLOC_", "LD_PRELOAD"),
)

Tell = Callable[[str, int, str], None]  # cell, threads, what is being done; "" is the end


def about(seconds: float) -> dict[str, Any]:
    """What a reader of the numbers wants to know about the run."""
    import fastattn

    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = asdict(fastattn.machine())
    return {
        "commit": _commit(),
        "versions": versions,
        "machine": {name: str(value) for name, value in machine.items()},
        "system": platform.platform(),
        "environment": _environment(),
        "seconds": seconds,
        "block_seconds": timing.BLOCK_SECONDS,
    }


def _environment() -> dict[str, str]:
    """Variables that change speeds here, in order."""
    found = {k: v for k, v in os.environ.items() if k.startswith(VARIABLES) and k not in FORCING}
    return dict(sorted((found | forcing()).items()))


def _commit() -> str:
    """Commit of the working tree, marked if the tree has changes."""
    try:
        return git.output("describe", "--always", "--dirty", "--abbrev=8", folder=ROOT).strip()
    except git.GitError:
        return "unknown"


def run(
    results: Results, cells: Sequence[str], threads: Sequence[int], seconds: float, tell: Tell
) -> None:
    """Measure into `results`, cell by cell, so that an interruption leaves what there is."""
    for count in threads:
        pending = {cell: list(results.peers) for cell in cells}
        while pending:
            _process(results, pending, count, seconds, tell)


def _process(
    results: Results, pending: dict[str, list[str]], threads: int, seconds: float, tell: Tell
) -> None:
    """Run one process.  What it finished leaves `pending`, and so does a peer that killed it."""
    cell = doing = ""
    entries: dict[str, Entry] = {}
    for message in _messages(pending, threads, seconds):
        if "limits" in message:
            results.limits[str(threads)] = message["limits"]
        elif "cell" in message:
            cell, doing, entries = message["cell"], "", {}
        elif "doing" in message:
            doing = message["doing"]
            tell(cell, threads, doing)
        elif "peer" in message:
            name = message.pop("peer")
            entries[name] = Entry(cell, threads, name, **message)
            results.entries.append(entries[name])
        elif "restless" in message:
            entries[message["restless"]].restless += 1
        elif "repetition" in message:
            for name, sample in message["repetition"].items():
                entries[name].samples.append(sample)
        elif "others" in message:
            if message["others"] is not None:
                results.others.setdefault(str(threads), {})[cell] = message["others"]
        elif "done" in message:
            del pending[cell]
            tell(cell, threads, "")
            cell = doing = ""
        else:  # it ended too early
            reason = message["ended"]
            if doing and doing in pending.get(cell, ()):
                # The cell's other peers begin anew; one that killed an earlier process does not.
                again = [(cell, threads, name) for name in pending[cell]]
                kept = [e for e in results.entries if (e.cell, e.threads, e.peer) not in again]
                results.entries[:] = [*kept, Entry(cell, threads, doing, failed=reason)]
                pending[cell].remove(doing)
            else:
                raise RuntimeError(f"no measurement on {threads} threads: {reason}")


def _messages(
    cells: Mapping[str, Sequence[str]], threads: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """What a process says, and how it ended if it failed."""
    request = {"cells": cells, "threads": threads, "seconds": seconds}
    try:
        yield from children.messages("perf.peers.timing", request, system.environment(threads))
    except children.ChildError as error:
        last = (error.output.splitlines() or [""])[-1]
        yield {"ended": f"the process ended with {error.status}: {last}"[:300]}


def usable_cpus() -> int:
    """CPUs that this process may use."""
    import fastattn

    return int(fastattn.machine().usable_cpus)
