"""fastattn beside other libraries: ``python -m perf.peers``, behind ``make peers``.

    cells      what is computed: rows of the table
    peer       what a peer is; each library has a file of its own
    timing     agreement, then turns: one process for each number of threads
    results    samples, their ratios, and the file they are kept in
    console    the tables; chart: the picture

A new peer takes one file with `PEERS`, and its name in `FILES`.  Libraries are imported inside
functions: none of them needs to be installed.
"""

from __future__ import annotations

import importlib

from perf.peers.peer import Peer

FILES = ("ours", "adapters", "torch_", "onnxruntime_", "openvino_", "jax_", "mlx_")
OURS = "cython"  # ratios are relative to it


def registry() -> dict[str, Peer]:
    """Every peer, by name, in the order of the table's columns."""
    modules = (importlib.import_module(f"perf.peers.{name}") for name in FILES)
    return {peer.name: peer for module in modules for peer in module.PEERS}
