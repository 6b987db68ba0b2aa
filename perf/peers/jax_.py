"""JAX: ``jax.nn.dot_product_attention``, jitted, on the CPU.

Arrays are in JAX's own layout (B, L, H, D) from the start.  XLA uses one thread for each CPU
that the process may use, and has no other setting, so it is timed where that is the wanted number.
Version 0.10 computes the scores of float64 in float32, so it fails the agreement check there.
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.common import Case
from perf.peers.peer import Bound, Peer, owns_its_cpus

DTYPES = ("float32", "float64", "bfloat16")  # XLA refuses float16 on a CPU


def _attention(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import jax
    import numpy as np

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)  # for float64; other inputs keep their types
    q, k, v = (jax.device_put(np.ascontiguousarray(x.swapaxes(1, 2))) for x in (q, k, v))

    attention = jax.jit(functools.partial(jax.nn.dot_product_attention, is_causal=case.causal))

    def call() -> Any:
        return attention(q, k, v).block_until_ready()

    return Bound(call, read=lambda result: np.asarray(result).swapaxes(1, 2))


PEERS = (
    Peer(
        "jax",
        "jax.nn.dot_product_attention, jitted",
        ("jax",),
        DTYPES,
        _attention,
        refuses=owns_its_cpus,
    ),
)
