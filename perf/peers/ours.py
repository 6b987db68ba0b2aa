"""The implementations of fastattn, through the public call, which allocates its result."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks import common
from benchmarks.common import IMPLS, Case
from perf.peers.peer import Bound, Peer

DTYPES = ("float32", "float64", "float16", "bfloat16")


def _peer(impl: str) -> Peer:
    def bind(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
        import fastattn

        # BLAS's threads are set when the process starts.
        config = None if impl == "numpy" else fastattn.Config(threads=threads)
        call = functools.partial(
            fastattn.attention, q, k, v, causal=case.causal, impl=impl, config=config
        )
        return Bound(call, read=lambda result: result)

    def refuses(case: Case, threads: int) -> str | None:
        return common.missing(case, impl)

    summary = f"fastattn.attention(impl={impl!r})"
    return Peer(impl, summary, ("fastattn",), DTYPES, bind, ours=True, refuses=refuses)


PEERS = tuple(_peer(impl) for impl in reversed(IMPLS))
