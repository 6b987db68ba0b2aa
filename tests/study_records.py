"""A made-up record of the report: numbers that are known, and that no machine gave."""

from __future__ import annotations

import math
import random
from dataclasses import asdict
from typing import Any

from benchmarks.common import DIMS, IMPLS, MASKED, REGIMES
from perf.peers.results import Entry, Results
from perf.study.data import Record, Round

SPEEDUPS = {"numpy": 1.0, "numba": 2.0, "cython": 3.0}
NOISE = {"numpy": 0.03, "numba": 0.08, "cython": 0.01}
TORCH = {"cython": 1.0, "numpy": 3.0, "torch-sdpa": 1.5, "torch-hand": 2.5, "torch-mha": 2.2}
CELLS = ("blog", "dim-64", "dim-256", "dim-1024", "vit", "bert", "prefill-2k", "causal-4k")


def about(cpus: int = 2) -> dict[str, Any]:
    """Of a machine that does not exist."""
    return {
        "commit": "0123abcd",
        "date": "2025-01-31",
        "cpus": cpus,
        "load_average": 0.1,
        "system": "Linux-6.1-x86_64",
        "environment": {"OMP_NUM_THREADS": "2"},
        "versions": {"python": "3.11.7", "fastattn": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"},
        "machine": {
            "processor": "A Processor <with> 2 & more CPUs @ 2.0GHz",
            "usable_cpus": str(cpus),
            "cpus": str(cpus),
            "isas": "('avx512', 'avx2', 'baseline')",
        },
    }


def synthetic(
    dims: tuple[int, ...] = DIMS,
    rounds: int = 9,
    contended: tuple[int, ...] = (),
    repetitions: int = 20,
    torch: bool = True,
) -> Record:
    """Speed-ups of `SPEEDUPS` at each dim, a little more of them where dims are greater."""
    rng = random.Random(0)
    record = Record(about(), rounds)
    for dim in dims:
        record.tunings[str(dim)] = tuning(dim, rng)
        for _ in range(rounds):
            one = Round(others=0.2 if dim in contended else 0.01, stolen=0.002)
            base = 2e-10 * dim**2.7
            for impl in IMPLS:
                each = base / (SPEEDUPS[impl] ** (1 + 0.2 * math.log2(dim / 64)))
                noise = NOISE[impl] * 64 / dim + 0.002
                spread = (abs(rng.gauss(0, noise)) for _ in range(repetitions))
                one.samples[impl] = [each * (1 + more) for more in spread]
                one.errors[impl] = 0.7
            record.rounds.setdefault(str(dim), []).append(one)
    for at, name in enumerate(REGIMES | MASKED):
        share = 0.95 - 0.03 * at
        record.roofline[name] = {
            "time": [1e-3] * 3,
            "time_over_peak": [1 / share] * 3,
            "reason": None,
        }
    record.roofline_load = {"others": 0.01, "stolen": 0.0}
    record.sharing = {
        "ratios": [
            {
                "case": case,
                "load": load,
                "pool_seconds": 2e-3,
                "openmp_over_pool": {"median": 1.25, "low": 1.2, "high": 1.3},
            }
            for load in ("idle", "contended")
            for case in ("small", "bert")
        ]
    }
    if torch:
        record.peers = asdict(peers(rng))
    else:
        record.peers_reason = "torch is not installed here"
    return record


def peers(rng: random.Random) -> Results:
    """Times over ours of `TORCH`."""
    found = Results(about(), list(TORCH))
    for threads in (1, 2):
        found.others[str(threads)] = dict.fromkeys(CELLS, 0.0) | {"vit": 0.3}
        for cell in CELLS:
            for name, ratio in TORCH.items():
                each = 1e-4 * ratio / threads
                samples = [each * (1 + 0.05 * rng.random()) for _ in range(10)]
                found.entries.append(Entry(cell, threads, name, samples, calls=1, error=0.5))
    return found


def tuning(dim: int, rng: random.Random) -> dict[str, Any]:
    """What `TuningResult.to_json` gives, as far as the report reads it."""
    evaluations = [
        {"log_ratios": [math.log(rng.uniform(0.7, 3.0))], "dropped": at % 3 == 2}
        for at in range(17)
    ]
    evaluations.append({"log_ratios": [], "dropped": False})  # it failed
    return {
        "dtype": "float32",
        "config": {"block_q": 32, "block_k": 32, "threads": 1 if dim < 200 else 2},
        "exploration": [18, 32],
        "speedup": 1.4,
        "speedup_interval": [1.35, 1.46] if dim > 64 else None,
        "tuning_seconds": 3.2,
        "load": {"others": 0.01, "stolen": None},
        "search": {"evaluations": evaluations},
    }
