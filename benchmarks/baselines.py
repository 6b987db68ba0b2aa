"""The same work by NumPy alone, which the history's ratios are relative to.

A kernel's time changes with the machine's clock, and so does that of a baseline in the same
process, a moment before or after.  The baseline's code comes from a pinned wheel, so that over the
commits only the kernel changes.  A neighbour on the same core slows the two unequally, but only
ever slows them, so a process gives the ratio of the least of many short samples, which stays
steady where medians of the same build lie 3 to 8 % apart.  What a process fixes at its start, and
a neighbour that stays as long, differ from process to process: the median over them counts.

    compute     two matrix products, and the exponentials of the scores between them, in blocks
                that fit into the L2 cache: a call's multiplications, additions and exponentials
    stream      one pass over as many bytes as keys and values have
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks import common, roofline, sampling
from benchmarks.common import Case, Profile

ROWS, KEYS = 128, 512
BLOCK_SECONDS = 0.003
REPETITIONS = 80
BUDGET_SECONDS = 0.5


def baseline(case: Case) -> tuple[Callable[[], Any], float]:
    """A call of NumPy, and how many such calls are the work of one call of the case."""
    return _stream(case) if case.length_q == 1 else _compute(case)


def _compute(case: Case) -> tuple[Callable[[], Any], float]:
    import numpy as np

    rows, keys = min(ROWS, case.length_q), min(KEYS, case.length_k)
    q, k, v = (array[0, 0] for array in common.inputs(case))
    q, k, v = q[:rows] / np.sqrt(q.dtype.type(case.dim)), k[:keys].T, v[:keys]
    scores, result = np.empty((rows, keys), q.dtype), np.empty((rows, case.dim), q.dtype)

    def call() -> None:
        np.matmul(q, k, out=scores)
        np.exp(scores, out=scores)
        np.matmul(scores, v, out=result)

    return call, roofline.work(case) / (4 * rows * keys * case.dim)


def _stream(case: Case) -> tuple[Callable[[], Any], float]:
    import numpy as np

    numbers = np.ones(roofline.bytes_read(case) // case.itemsize, common.dtype_of(case))
    return lambda: np.dot(numbers, numbers), 1.0


def measure(
    cases: Mapping[Any, Case], impls: Sequence[str], profile: Profile
) -> dict[tuple[Any, str], sampling.Cell]:
    """Measure every case in every implementation against its baseline."""
    profile = replace(
        profile,
        rounds=profile.history_rounds,
        repetitions=REPETITIONS,
        block_seconds=BLOCK_SECONDS,
        budget_seconds=min(BUDGET_SECONDS, profile.budget_seconds),
    )
    return sampling.measure(cases, impls, profile, "benchmarks.baselines")


def child(request_json: str) -> None:
    """Answer one request of `sampling.measure` on standard output.

    Turns are timed by the process's own CPU time, which leaves out what others use of the CPU.
    """
    request = json.loads(request_json)
    case, profile = Case(**request["case"]), Profile(**request["profile"])
    agreed, answer = sampling.checked(case, request["impls"], request["threads"])
    call, times = baseline(case)
    for impl, ours in agreed.items():
        samples = sampling.take_samples(
            {impl: ours, "baseline": call}, profile, time.process_time, request["seed"]
        )
        over = min(samples[impl]) / (times * min(samples["baseline"]))
        answer[impl] |= sampling.summary(samples[impl], None) | {"time_over_baseline": over}
    print(json.dumps(answer))
