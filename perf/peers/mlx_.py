"""MLX: ``mlx.core.fast.scaled_dot_product_attention``, where MLX is installed."""

from __future__ import annotations

from typing import Any

from benchmarks.common import Case
from perf.peers.peer import Bound, Peer, owns_its_cpus


def _attention(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import mlx.core as mx
    import numpy as np

    mx.set_default_device(mx.cpu)
    q, k, v = (mx.array(array) for array in (q, k, v))
    scale, mask = case.dim**-0.5, "causal" if case.causal else None

    def call() -> Any:
        result = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        mx.eval(result)  # MLX computes only when it is asked to
        return result

    return Bound(call, read=lambda result: np.array(result.astype(mx.float32)))


PEERS = (
    Peer(
        "mlx",
        "mlx.core.fast.scaled_dot_product_attention",
        ("mlx.core",),
        ("float32", "float16", "bfloat16"),
        _attention,
        install="pip install 'mlx[cpu]'",  # not in the extra: its wheels need a recent Linux
        refuses=owns_its_cpus,
    ),
)
