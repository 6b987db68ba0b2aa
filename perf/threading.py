"""OpenMP against the pool of helper threads: ``python -m perf.threading``.

Two processes of this working tree, one for each value of ``FASTATTN_THREADING``, compute the same
calls in alternating blocks, on an idle machine and beside a busy process that is bound to one CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import common
from benchmarks.child import command
from benchmarks.child import environment as child_environment
from perf import entry
from perf.answering import own_output
from perf.summary import Estimate, estimate
from perf.system import environment

CASES = ("small", "dim-256", "dim-1024", "bert", "prefill-2k")
WAYS = ("pool", "openmp")
LOADS = ("idle", "contended")


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of a call with OpenMP over its time with the pool.

    Attributes
    ----------
    case : str
        A name in `benchmarks.common.REGIMES`.
    load : str
        "idle", or "contended": beside a busy process bound to one of the CPUs.
    pool_seconds : float
        Mean time of a call with the pool, the median over the repetitions.
    openmp_over_pool : Estimate
        Ratio of mean times, over the repetitions.
    """

    case: str
    load: str
    pool_seconds: float
    openmp_over_pool: Estimate


def compare(
    cases: Sequence[str] = CASES,
    loads: Sequence[str] = LOADS,
    *,
    threads: int = 2,
    repetitions: int = 15,
    block_seconds: float = 0.1,
) -> Iterator[Ratio]:
    """Measure OpenMP against the pool for each load and case, one after the other.

    Each repetition has a block of calls of either process, of at least `block_seconds`.  Means,
    not medians: a thread that is waited for costs few calls much.
    """
    with ExitStack() as stack:
        pool, openmp = (stack.enter_context(_worker(way, threads)) for way in WAYS)
        for load in loads:
            with ExitStack() as contended:
                if load == "contended":
                    contended.enter_context(_busy_process())
                for case in cases:
                    pairs = []
                    for repetition in range(repetitions + 1):
                        order = (pool, openmp) if repetition % 2 else (openmp, pool)
                        took = {id(way): _block(way, case, block_seconds) for way in order}
                        pairs.append((took[id(pool)], took[id(openmp)]))
                    pairs = pairs[1:]  # the first has compiled, allocated and started threads
                    own = estimate([one for one, _ in pairs])
                    ratio = estimate([other / one for one, other in pairs])
                    assert own is not None
                    assert ratio is not None
                    yield Ratio(case, load, own.median, ratio)


@contextmanager
def _worker(way: str, threads: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("perf.threading", {"threads": threads}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=child_environment(environment(common.THREADS) | {"FASTATTN_THREADING": way}),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _busy_process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
            yield
        finally:
            process.kill()


def _block(process: subprocess.Popen[str], case: str, seconds: float) -> float:
    """Mean seconds of a call, as the process answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(case, seconds, file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"the worker has ended: status {process.wait()}")
    return float(answer)


def child(request_json: str) -> None:
    """Answer each line of standard input, a case and seconds, with the mean time of its calls."""
    threads = json.loads(request_json)["threads"]
    answers = own_output()
    calls = {}
    for line in sys.stdin:
        name, seconds = line.split()
        if name not in calls:
            calls[name] = common.bind(common.REGIMES[name], "cython", threads)
        call, count = calls[name], 0
        call()
        start = time.perf_counter()
        while (took := time.perf_counter() - start) < float(seconds):
            call()
            count += 1
        print(took / count, file=answers, flush=True)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m perf.threading", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"among {', '.join(common.REGIMES)}")
    parser.add_argument("--threads", type=int, default=2, help="of each call, default %(default)s")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(common.REGIMES):
        parser.error(f"no case {', '.join(sorted(unknown))}")
    print(
        f"{options.threads} threads; OpenMP's time over the pool's: median and its 95 % interval\n"
    )
    print(f"{'load':<10} {'case':<12} {'pool ms':>9} {'ratio':>7}")
    for row in compare(options.cases or CASES, threads=options.threads):
        ratio = row.openmp_over_pool
        print(
            f"{row.load:<10} {row.case:<12} {1e3 * row.pool_seconds:9.3f} {ratio.median:7.3f}"
            f"  {ratio.low:.3f} - {ratio.high:.3f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    entry.run(main)
