"""Fraction of peak: the time that the machine's limits allow over the time that a call takes.

A call cannot be faster than its useful multiplications and additions at the machine's peak (of
FMA; in bfloat16, of its products if those are faster), nor faster than reading K and V once at its
streaming rate; the longer of the two times is the peak's.  Both limits, of `fastattn.roofline`, are
probed in turn with a repetition's calls, because the machine's clock changes within a second.

asv looks for numbers that grow, so `bench_roofline` tracks the inverse: time over the peak's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks import common, sampling
from benchmarks.common import Case, Profile

# The probe reads through all caches, so a block of calls must last much longer than it takes to
# fill them again.
BLOCK_SECONDS = 0.02
PROBE_SECONDS = 0.04
BUDGET_SHARE = 0.75


def work(case: Case) -> int:
    """Useful multiplications and additions of a case: those for keys that are seen."""
    if case == case.without_masks():
        seen = case.length_q * case.length_k
    elif case.blocks > 1:
        seen = case.length_q * case.length_k // case.blocks
    else:  # window, or all keys up to the query's own place
        widest = case.length_k if case.window is None else case.window + 1
        seen = sum(min(i + 1, widest) for i in range(case.length_q))
    return 4 * case.batch * case.heads_q * seen * case.dim


def bytes_read(case: Case) -> int:
    """Bytes of K and V, each read once."""
    return 2 * case.batch * case.heads_kv * case.length_k * case.dim * case.itemsize


def peak_flops(roof: Any, dtype: str) -> float:
    """Multiplications and additions per second, by the faster of the instructions for a type."""
    products = getattr(roof, "bfloat16_flops_per_second", None) if dtype == "bfloat16" else None
    return float(max(roof.fma_flops_per_second[dtype], products or 0.0))


def peak_seconds(case: Case, roof: Any) -> float:
    """Least time that the limits of a `fastattn.Roofline` allow."""
    arithmetic = work(case) / peak_flops(roof, case.dtype)
    reading: float = bytes_read(case) / roof.stream_bytes_per_second
    return max(arithmetic, reading)


def peak_of(
    case: Case,
    isa: str | None = None,
    threads: int = common.THREADS,
    seconds: float = PROBE_SECONDS,
) -> float:
    """Least time of a case, by limits that are probed now."""
    import fastattn

    return peak_seconds(case, fastattn.roofline(isa, threads, seconds=seconds))


def missing() -> str | None:
    """Why there is no roofline; None if there is one."""
    import fastattn

    if not hasattr(fastattn, "roofline"):
        return "this version has no roofline"
    reason: str | None = fastattn.implementations()["cython"]
    return reason


def measure(
    cases: Mapping[Any, Case],
    impls: Sequence[str],
    profile: Profile,
    threads: int = common.THREADS,
) -> dict[tuple[Any, str], sampling.Cell]:
    """Measure every case in every implementation against the peak."""
    reason = missing()
    if reason is not None:
        return {(key, impl): sampling.Cell(skipped=reason) for key in cases for impl in impls}
    profile = replace(
        profile,
        block_seconds=BLOCK_SECONDS,
        budget_seconds=BUDGET_SHARE * profile.budget_seconds,
    )
    return sampling.measure(cases, impls, profile, "benchmarks.roofline", threads)


def child(request_json: str) -> None:
    """Answer one request of `sampling.measure` on standard output."""
    request = json.loads(request_json)
    case, profile = Case(**request["case"]), Profile(**request["profile"])
    threads = request["threads"]
    agreed, answer = sampling.checked(case, request["impls"], threads)
    unmasked: dict[str, Callable[[], Any]] = {}
    if case != case.without_masks():
        unmasked, found = sampling.checked(case.without_masks(), list(agreed), threads)
        agreed = {impl: call for impl, call in agreed.items() if impl in unmasked}
        answer |= {impl: reason for impl, reason in found.items() if impl not in unmasked}
    calls = agreed | {f"{impl} unmasked": call for impl, call in unmasked.items()}
    probes = {"peak": lambda: peak_of(case, threads=threads)}
    samples = sampling.take_samples(calls, profile, seed=request["seed"], probes=probes)
    for impl in agreed:
        answer[impl] |= sampling.summary(samples[impl], None)
        answer[impl]["time_over_peak"] = sampling.ratio(samples[impl], samples["peak"])
        if impl in unmasked:
            answer[impl]["time_over_unmasked"] = sampling.ratio(
                samples[impl], samples[f"{impl} unmasked"]
            )
    print(json.dumps(answer))
