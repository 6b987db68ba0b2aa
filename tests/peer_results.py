"""Results of a comparison with other libraries, made up for tests."""

from __future__ import annotations

from typing import Any

from perf.peers.results import Entry, Results

LIMITS = {"operations": {"float32": 1e11, "float64": 5e10}, "stream_bytes": 1e10}


def entry(peer: str, samples: list[float], cell: str = "small", **more: Any) -> Entry:
    return Entry(cell, 1, peer, samples=samples, **more)


def synthetic() -> Results:
    """A run in which one peer is faster than ours in one cell."""
    found = Results(
        about={
            "commit": "abc",
            "versions": {"numpy": "2.4"},
            "machine": {"processor": "A CPU", "usable_cpus": "2"},
            "environment": {"OPENBLAS_CORETYPE": "Haswell"},
        },
        peers=["cython", "numpy", "torch-sdpa", "ort-attention", "jax", "mlx"],
        limits={"1": LIMITS},
        others={"1": {"small": 0.5, "decode": 0.01}},
    )
    times = {"cython": 1e-3, "numpy": 4e-3, "torch-sdpa": 2e-3, "ort-attention": 0.8e-3}
    for cell in ("small", "decode", "blog"):
        for name, seconds in times.items():
            slower = 2.0 if name == "ort-attention" and cell != "small" else 1.0
            found.entries.append(
                entry(
                    name,
                    [seconds * slower * (1 + i / 1000) for i in range(5)],
                    cell,
                    difference=1e-7 if cell == "blog" else None,
                )
            )
        found.entries.append(Entry(cell, 1, "mlx", skipped="not installed: 'fastattn[peers]'"))
        found.entries.append(Entry(cell, 1, "jax", failed="ArithmeticError: error 9"))
    found.entries.append(entry("torch-math", [9.0], alone=True, restless=1))
    return found
