"""One process: agreement, then turns, on a number of threads fixed before it starts.

The command starts this process with the environment of `environment`.  It pins itself to exactly
as many CPUs as there are threads before a library counts them, and reports what it does and
finds in lines of JSON on standard output.

Before a turn the process is left alone until it is idle: thread pools spin for
milliseconds after a call, each in its own way, and would take the next one's CPUs.  No
pool is told not to spin, since that would slow its library down.  The first calls of a turn,
which wake the pool and a CPU that has rested, are not timed.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import common, oracle, roofline, sampling
from perf.answering import one_line, own_output
from perf.peers import OURS, accuracy, registry
from perf.peers.cells import CELLS, Cell
from perf.peers.peer import Bound
from perf.system import Others, pin, settle, wake

BLOCK_SECONDS = 0.03
WARM_SECONDS = 0.3  # a longer call does not notice that its threads have slept
LEAST_REPETITIONS, MOST_REPETITIONS = 5, 60
# Fractions of a cell's time budget: a longer call is timed once, or not at all.
MAX_INTERLEAVED_CALL, MAX_CALL = 0.4, 1.5

Say = Callable[[dict[str, Any]], None]


def limits(threads: int) -> dict[str, Any]:
    """What the machine can do at most, probed in this process."""
    import fastattn

    found = fastattn.roofline(threads=threads)
    return {
        "operations": {name: roofline.peak_flops(found, name) for name in common.DTYPES},
        "stream_bytes": found.stream_bytes_per_second,
    }


def agree(cell: Cell, arrays: tuple[Any, Any, Any], result: Any, ours: Any) -> dict[str, Any]:
    """Check a result against the oracle and, if the cell asks for it, against ours.

    Raises
    ------
    ArithmeticError
        The result disagrees.
    """
    import numpy as np

    found: dict[str, Any] = {"error": oracle.relative_error(cell.case, *arrays, result)}
    found["rms"] = accuracy.over_one_rounding(cell.case, arrays, result)
    if cell.agreement is not None and ours is not None:
        difference = float(np.abs(result - ours).max())
        if not difference <= cell.agreement:
            raise ArithmeticError(f"differs by {difference:.3g} from {OURS}")
        found["difference"] = difference
    return found


def measure(
    cell: Cell,
    names: Sequence[str],
    threads: int,
    seconds: float,
    say: Say,
    speeds: dict[tuple[str, str], float],
) -> None:
    """Let the peers that can run and agree take turns in one cell, and say what was found.

    `speeds` keeps the lowest speed seen for each peer and data type, so that a call that would
    last for ever is not begun.
    """
    arrays = cell.inputs()
    bounds: dict[str, Bound] = {}
    numbers: dict[str, int] = {}
    brief: set[str] = set()
    ours = None
    peers = registry()
    for name in names:
        say({"doing": name})
        reason = peers[name].missing(cell.case, threads)
        speed = (name, cell.case.dtype)
        expected = cell.operations / speeds.get(speed, math.inf)
        if reason is None and expected > MAX_CALL * seconds:
            reason = f"would take about {expected:.0f} s a call"
        if reason is not None:
            say({"peer": name, "skipped": reason})
            continue
        try:
            bound = peers[name].bind(cell.case, *arrays, threads)
            with bound.around():
                result = bound.read(bound.call())
            found = agree(cell, arrays, result, ours)
            ours = result if name == OURS else ours
            settle()
            with bound.around():
                each = sampling.block_seconds(bound.call, 1, time.perf_counter)
                speeds[speed] = min(speeds.get(speed, math.inf), cell.operations / each)
                if each < WARM_SECONDS:
                    brief.add(name)
                slow = each > MAX_INTERLEAVED_CALL * seconds and name != OURS
                if slow:
                    found |= {"alone": True, "samples": [each], "calls": 1}
                else:
                    numbers[name] = sampling.calls_per_block(
                        bound.call, BLOCK_SECONDS, time.perf_counter
                    )
                    found["calls"] = numbers[name]
        except Exception as error:
            say({"peer": name, "failed": one_line(error)})
            traceback.print_exc()
            continue
        say({"peer": name, **found})
        if not slow:
            bounds[name] = bound
    others = Others()
    for repetition in _sample(bounds, numbers, brief, seconds, say):
        say({"repetition": repetition})
    say({"others": others.share()})


def _sample(
    bounds: Mapping[str, Bound],
    numbers: Mapping[str, int],
    brief: set[str],
    seconds: float,
    say: Say,
) -> Iterator[dict[str, float]]:
    """Yield repetitions until the time is up."""
    if not bounds:
        return

    @contextmanager
    def around(name: str) -> Iterator[None]:
        say({"doing": name})
        if not settle():
            say({"restless": name})
        with bounds[name].around():
            if name in brief:
                wake(bounds[name].call)
            yield

    calls = {name: bound.call for name, bound in bounds.items()}
    end = time.perf_counter() + seconds
    with sampling.no_collection():
        blocks = sampling.blocks(calls, numbers, time.perf_counter)
        taken = sampling.repetitions(blocks, around=around)
        for done, repetition in enumerate(taken, start=1):
            yield repetition
            late = time.perf_counter() >= end and done >= LEAST_REPETITIONS
            if late or done >= MOST_REPETITIONS:
                return


def child(request_json: str) -> None:
    """Answer one request: cells, each with its peers, on one number of threads."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides
    request = json.loads(request_json)
    output = own_output()

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=output, flush=True)

    threads = request["threads"]
    pin(threads)
    say({"limits": limits(threads)})
    speeds: dict[tuple[str, str], float] = {}
    for name, peers in request["cells"].items():
        say({"cell": name})
        measure(CELLS[name], peers, threads, request["seconds"], say, speeds)
        common.inputs.cache_clear()
        say({"done": name})
