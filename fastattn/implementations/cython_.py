"""Cython over C++: SIMD micro-kernels chosen at run time, threads, blocks that fit the caches.

This module resolves blocks, threads and the instruction set, and hands the problem to the
binding.  The computation is in ``src_cpp``; its map is ``src_cpp/README.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastattn import _env
from fastattn._config import Config
from fastattn._machine import (
    binding,
    caches_bytes,
    check_runnable,
    has_kernel,
    native,
    usable_cpus,
)
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._threads import threading_backend, used_threads, wanted_threads

NAME = "cython"
SUMMARY = "C++ kernels with SIMD or AMX instructions, tiled for the caches, with its own threads"
TUNABLES = frozenset({"block_q", "block_k", "keys_per_split", "threads", "isa"})
MASKS = frozenset({"dense", "causal", "window", "lengths"})

# One thread is asked for per this many multiply-adds: some microseconds of one core.  Helpers that
# are looking out for work come in time even for so little; those that sleep come too late to help,
# and waking them costs the call.  Where keys are packed, each thread packs them, and a product
# takes less time.
_WORK_PER_THREAD, _WORK_PER_THREAD_PACKED = 250_000, 500_000
# Between the two products, the weights of a register tile's queries are to fit the L1 cache, whose
# size is assumed to be this if the system does not tell.
_L1_DEFAULT_BYTES = 32 * 1024
_L2_DEFAULT_BYTES = 1024 * 1024
# For heads wider than the kernel's chunk of columns, the scores of all rows of a block wait in L2
# between chunks, beside a chunk of its keys.  So a block has fewer keys if a number has more bytes.
_WIDE_ITEM_BYTES = 4
# Most rows of a block, and most bytes of its queries and sums.  The rows of a block share what is
# read of keys and values, and what packing them costs.  With several threads, the most blocks into
# which a thread's rows are divided so that all threads end at the same time.
_BLOCK_Q_LARGEST, _BLOCK_Q_MIB, _BLOCKS_OF_THREAD = 512, 2, 32
_BLOCK_Q_LARGEST_PACKED, _BLOCK_Q_MIB_PACKED, _BLOCKS_OF_THREAD_PACKED = 2048, 8, 16
# Where there are few work items, the threads' loads are balanced: five items on two threads take as
# long as six.  Reading a block's keys and values takes as long as this many of its rows, and a
# choice of fewer blocks than the usual one has to be better by this factor.
_READING_ROWS = 4
_BALANCE_GAIN = 1.05
# Up to this many rows of a key head do not keep a thread busy by themselves, so their keys are
# split: into splits of at least this many keys, and into so few that at most this many rows of
# partial results are to be merged.
_SPLIT_ROWS = 64
_KEYS_PER_SPLIT_SMALLEST = 1024
_PARTIAL_ROWS_MOST = 1024


class Tile(NamedTuple):
    """Sizes that a kernel works in: see `Kernel` in ``src_cpp/abi.hpp``."""

    lanes: int
    keys: int
    rows: int
    block_keys: int
    chunk: int
    packed: int = 0


def missing() -> str | None:
    """Why the compiled extension cannot be used; None if it can."""
    return native()[1]


def supports(spec: CallSpec) -> str | None:
    """Why it cannot compute such a call; None if it can."""
    return None


def fingerprint() -> dict[str, str]:
    """Digest of the compiled extension."""
    import hashlib

    compiled, _ = native()
    if compiled is None or compiled.__file__ is None:
        return {}
    try:
        with open(compiled.__file__, "rb") as file:
            return {"extension": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError:  # replaced by another installation, say
        return {"extension": "unreadable"}


def configure(spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
    """Resolve instruction set, threads and blocks."""
    reasons = {}
    isa, reason = _isa(spec, config)
    if isa != config.isa:
        reasons["isa"] = reason
    tile = _tile(isa, spec.operation, spec.dtype.code)
    work = _WORK_PER_THREAD_PACKED if tile.packed else _WORK_PER_THREAD
    threads, reason = wanted_threads(config.threads, spec.multiply_adds, work)

    keys_per_split = config.keys_per_split
    if keys_per_split is None:
        keys_per_split, reasons["keys_per_split"] = _default_keys_per_split(spec)
    block_k, block_q = config.block_k, config.block_q
    if block_k is None:
        block_k, reasons["block_k"] = default_block_k(spec, keys_per_split, tile)
    if block_q is None:
        block_q, reasons["block_q"] = default_block_q(spec, threads, tile)
    # Blocks end where the call ends: configurations that compute alike resolve alike.
    keys_per_split = min(keys_per_split, max(1, spec.length_k))
    block_q = min(block_q, max(1, spec.length_q * spec.group))
    threads, reason = used_threads(
        threads, reason, _work_items(spec, block_q, keys_per_split, threads)
    )
    if threads != config.threads:
        reasons["threads"] = reason
    if threads > 1:
        reasons["threading"] = "{} ({})".format(*threading_backend())
    resolved = Config(
        block_q=block_q,
        block_k=min(block_k, keys_per_split),
        keys_per_split=keys_per_split,
        threads=threads,
        isa=isa,
    )
    return resolved, reasons


def prepare(spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """Hand the binding what does not change from call to call."""
    return prepare_on(threading_backend()[0], spec, config)


def prepare_on(threading: str, spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """The same with threads of a named kind: an adapter can know better than the default."""
    from fastattn.implementations._native import Runner

    assert config.isa  # resolved by configure, as are the others
    assert config.block_q
    assert config.block_k
    assert config.keys_per_split
    assert config.threads
    g = spec
    runner = Runner(
        binding().ISAS.index(config.isa),
        g.dtype.code,
        g.batch_shape,
        g.heads_q,
        g.heads_kv,
        g.length_q,
        g.length_k,
        g.dim,
        g.dim_v,
        *g.factors,
        g.softcap or 0.0,
        g.band.left,
        g.band.right,
        config.block_q,
        config.block_k,
        config.keys_per_split,
        config.threads,
        usable_cpus(),
        threading,
    )

    def run(problem: Problem) -> None:
        p = problem
        runner.run(
            p.q,
            p.k,
            p.v,
            p.out,
            p.lse,
            p.mask,
            None if p.offsets is None else np.ascontiguousarray(p.offsets),
            None if p.lengths is None else np.ascontiguousarray(p.lengths),
            p.sinks,
        )

    return run


def _isa(spec: CallSpec, config: Config) -> tuple[str, str]:
    """Instruction set of a call, and why: the requested one if it has a kernel for the call."""
    isa, origin = config.isa, "Config.isa"
    if isa is None:
        isa, origin = _env.forced_isa(), "FASTATTN_ISA"
    if isa is None:
        return best_isa(spec)
    check_runnable(isa, origin)
    if has_kernel(isa, spec.operation, spec.dtype.code):
        return isa, origin
    best, reason = best_isa(spec)
    return best, f"{reason}; {isa} ({origin}) has no kernel for it"


def best_isa(spec: CallSpec, *, ask: bool = True) -> tuple[str, str]:
    """Instruction set of a call that leaves the choice open, and why.

    With `ask`, the operating system is asked to permit its use, if it needs that; else it counts as
    permitted.
    """
    isa, reasons = binding().best_isa(
        spec.operation,
        spec.dtype.code,
        spec.length_q * spec.group,
        spec.length_k,
        spec.dim,
        spec.dim_v,
        ask,
    )
    return isa, "; ".join([f"the best for {spec.dtype.name} that runs here", *reasons])


def _work_items(spec: CallSpec, block_q: int, keys_per_split: int, threads: int) -> int:
    rows = spec.length_q * (spec.heads_q // spec.heads_kv)
    items: int = binding().work_items(
        spec.batch, spec.heads_kv, rows, spec.length_k, block_q, keys_per_split, threads
    )
    return items


def _few_items() -> int:
    few: int = binding().FEW_ITEMS
    return few


@functools.cache
def _tile(isa: str, operation: str, code: int) -> Tile:
    return Tile(*binding().tile(binding().ISAS.index(isa), operation, code))


def default_block_k(spec: CallSpec, keys_per_split: int, tile: Tile) -> tuple[int, str]:
    """About `tile.block_keys` keys, such that the blocks of a split are nearly equal, and why."""
    caches = caches_bytes()
    if tile.packed:
        key_bytes = tile.packed * (spec.dim + spec.dim_v)
        room, why = (
            caches.get("L2", _L2_DEFAULT_BYTES) // 2,
            "packed keys and values fit half of L2",
        )
    else:
        key_bytes = tile.rows * spec.dtype.compute.itemsize
        room = caches.get("L1d", _L1_DEFAULT_BYTES)
        why = f"the weights of {tile.rows} queries fit L1"
    fitting = max(32, room // key_bytes // 32 * 32)
    wanted = tile.block_keys
    if max(spec.dim, spec.dim_v) > tile.chunk:
        wanted = wanted * _WIDE_ITEM_BYTES // spec.dtype.compute.itemsize
    wanted = min(wanted, fitting)
    keys = max(1, min(spec.length_k, keys_per_split))
    blocks = max(1, round(keys / wanted), -(-keys // fitting))
    block = -(-keys // blocks)
    # Round up to whole tiles, unless that leaves a short block at the end.
    whole = -(-block // tile.keys) * tile.keys
    last = keys - (blocks - 1) * whole
    if whole <= fitting and -(-keys // whole) == blocks and last > block // 2:
        block = whole
    return block, f"nearly equal blocks; {why}"


def _default_keys_per_split(spec: CallSpec) -> tuple[int, str]:
    """Follows from one key head's rows and keys alone: the number of heads changes no bit."""
    g = spec
    rows = max(1, g.length_q * (g.heads_q // g.heads_kv))
    split = max(_KEYS_PER_SPLIT_SMALLEST, -(-g.length_k * rows // _PARTIAL_ROWS_MOST))
    if rows > _SPLIT_ROWS or g.length_k <= split:
        return max(1, g.length_k), "one split: all keys"
    return split, f"few queries, many keys: {-(-g.length_k // split)} splits, merged"


def default_block_q(spec: CallSpec, threads: int, tile: Tile) -> tuple[int, str]:
    """Whole vectors of rows: many to a block, but enough blocks for the threads, and why."""
    g = spec
    row_bytes = (g.dim + g.dim_v) * g.dtype.compute.itemsize
    rows, mib, most = _BLOCK_Q_LARGEST, _BLOCK_Q_MIB, _BLOCKS_OF_THREAD
    if tile.packed:
        rows, mib = _BLOCK_Q_LARGEST_PACKED, _BLOCK_Q_MIB_PACKED
        most = _BLOCKS_OF_THREAD_PACKED
    why = "the largest default"
    if (mib << 20) // row_bytes < rows:
        rows, why = (mib << 20) // row_bytes, f"queries and sums of a block take {mib} MiB"
    if threads > 1:
        share = g.batch * g.heads_q * g.length_q / threads
        # Each block of rows reads all keys and values visible to it.  Below a tile or two of rows,
        # more even shares do not make up for that.
        balanced = int(max(share / most, min(256, share / 2), min(64, share)))
        if balanced < rows:
            rows, why = balanced, "enough work items for each thread"
    of_head = max(1, g.length_q * (g.heads_q // g.heads_kv))
    blocks = -(-of_head // max(1, rows))
    heads = g.batch * g.heads_kv
    unit = tile.rows
    if threads > 1 and heads * blocks < _few_items() * threads:
        unit = tile.lanes  # a tile of fewer vectors takes little more time for each vector

        def longest_share(count: int) -> float:
            height = _height(of_head, count, unit)
            items = heads * -(-of_head // height)
            share = -(-items // threads) * (height + _READING_ROWS)
            return share * (_BALANCE_GAIN if count < blocks else 1)

        blocks = min(range(-(-blocks // 2), 2 * blocks), key=longest_share)
    return _height(of_head, blocks, unit), why


def _height(rows: int, blocks: int, unit: int) -> int:
    """Rows of each of `blocks` blocks that together have `rows`, in whole units."""
    units = -(-rows // unit)
    return -(-units // blocks) * unit
