"""Attention in Numba: a tiled kernel, compiled for this processor on its first call.

Purpose: choose a configuration, lay out the working memory, start the threads.
Non-goals: the computation itself (the package `_numba`).  Nothing here imports Numba before
the first call.

The work is cut into items, batch entry x key head x block of `block_q` rows, which the
threads take from a shared counter.  The GIL is released while they compute.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastattn._config import Config
from fastattn._errors import UnavailableError, format_error
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._threads import wanted_threads
from fastattn.implementations._numba import shape
from fastattn.implementations._numba.pool import run_on_threads

NAME = "numba"
SUMMARY = "a tiled kernel that Numba compiles for this processor"
TUNABLES: frozenset[str] = frozenset({"block_q", "block_k", "threads"})
MASKS = frozenset({"dense", "causal", "window", "lengths"})

_BLOCK_Q = 256
_BLOCK_K = 192  # a multiple of 6 and of 8: whole tiles
# Waking a thread takes a while: fewer multiply-adds per thread than this are not shared.
_WORK_PER_THREAD = 4_000_000
_ITEMS_PER_THREAD = 3
# Each block of rows packs all values anew and, if a chunk does not hold all features, all keys
# too.  In that case there is more than one block for each thread only if rows are ample.
_LEAST_BLOCK_Q = 64
_AMPLE_BLOCK_Q = 192
_WORK_PER_BLOCK = 4_000_000
_BYTES_PER_SPLIT = 1 << 19  # of keys and values that a few rows of one head read
_WHOLE_PANELS = 16  # rows; a multiple of most panels' width
_LINE_BYTES = 64
_CHUNK_FEATURES = 264
"""Features that a panel goes through at a time, rounded down to whole tiles: their panel rows take
some 16 KiB, half of the nearest cache."""


def missing() -> str | None:
    """Why this implementation cannot run here; None if it can."""
    try:
        found = importlib.util.find_spec("numba") is not None
    except ValueError:  # a stand-in without a spec takes the module's place
        found = False
    return None if found else "the package numba is not installed"


def supports(spec: CallSpec) -> str | None:
    """Why it cannot compute such a call; None if it can."""
    return None


def fingerprint() -> dict[str, str]:
    """Version of Numba."""
    from importlib import metadata

    try:
        return {"numba": metadata.version("numba")}
    except metadata.PackageNotFoundError:
        return {}


def configure(spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
    """Fill the open fields, and give the reason for each."""
    g, reasons = spec, {}
    threads, block_q, block_k = config.threads, config.block_q, config.block_k
    if threads is None:
        threads, reasons["threads"] = wanted_threads(None, g.multiply_adds, _WORK_PER_THREAD)
    if block_q is None:
        block_q, reasons["block_q"] = _BLOCK_Q, "keeps a block of queries and results in cache"
        shared = _shared_block_q(spec, threads)
        if shared < block_q:
            block_q, reasons["block_q"] = shared, "smaller blocks, for work for every thread"
    if block_k is None:
        block_k, reasons["block_k"] = _BLOCK_K, "keeps a block of keys and values in cache"
    return Config(block_q=block_q, block_k=block_k, threads=threads), reasons


def _shared_block_q(g: CallSpec, threads: int) -> int:
    """Rows of a block such that every thread gets work, and about the same amount of it."""
    heads, rows = g.batch * g.heads_kv, g.group * g.length_q
    wanted = _ITEMS_PER_THREAD * threads
    if threads == 1 or not heads or heads * -(-rows // _BLOCK_Q) >= wanted:
        return _BLOCK_Q
    blocks = rows // _LEAST_BLOCK_Q
    if max(g.dim, g.dim_v) > _CHUNK_FEATURES:
        blocks = max(rows // _AMPLE_BLOCK_Q, min(threads, blocks))
    blocks = min(blocks, -(-wanted // heads), g.multiply_adds // (heads * _WORK_PER_BLOCK))
    if heads == 1 and blocks > threads:
        blocks -= blocks % threads
    return _up(max(1, -(-rows // max(1, blocks))), _WHOLE_PANELS)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """The kernel's table for a call, and what its threads need."""

    table: np.ndarray
    like: np.floating  # of the compute type
    scratch_words: int
    counters: int  # words at the start of the scratch that must be 0
    threads: int


_LAYOUTS: dict[tuple[Any, ...], _Layout] = {}
_LAYOUTS_KEPT = 4096


def prepare(spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """The layout depends on the arrays' strides too, so it is left to the call."""
    return functools.partial(_run, config)


def _run(config: Config, problem: Problem) -> None:
    """Compute the call and write `problem.out` and `problem.lse`."""
    g, lse, mask, sinks = problem.spec, problem.lse, problem.mask, problem.sinks
    q, k, v, out = problem.q, problem.k, problem.v, problem.out
    offsets, lengths = problem.offsets, problem.lengths
    if not out.size:
        return
    # Equal specs are one object, so `g` stands for the arrays' shapes here.
    key = (
        g,
        config.block_q,
        config.block_k,
        config.threads,
        q.strides,
        k.strides,
        v.strides,
        out.strides,
        None if lse is None else lse.strides,
        None if mask is None else (mask.dtype, mask.strides),
        None if offsets is None else offsets.strides,
        None if lengths is None else lengths.strides,
        None if sinks is None else (sinks.dtype, sinks.strides),
    )
    layout = _LAYOUTS.get(key)
    if layout is None:
        layout = _layout(problem, config)
        if len(_LAYOUTS) >= _LAYOUTS_KEPT:
            _LAYOUTS.clear()
        _LAYOUTS[key] = layout
    scratch = np.empty(layout.scratch_words, np.int64)
    scratch[: layout.counters] = 0
    kernel = _kernel()
    arguments = (
        id(layout.table),
        id(scratch),
        id(q),
        id(k),
        id(v),
        id(out),
        0 if lse is None else id(lse),
        0 if mask is None else id(mask),
        0 if offsets is None else id(offsets),
        0 if lengths is None else id(lengths),
        0 if sinks is None else id(sinks),
        g.scale,
        g.softcap or 0.0,
    )
    if layout.threads == 1:
        kernel(layout.like, 0, *arguments)
        return

    # An interrupt may end this call before a helper has begun, and the call may end before a
    # helper looks for work, in `scratch`: so `work` holds the arrays for the helpers.
    def work(worker: int, _held: object = (problem, layout, scratch, offsets)) -> object:
        return kernel(layout.like, worker, *arguments)

    run_on_threads(work, layout.threads)


def _layout(problem: Problem, config: Config) -> _Layout:
    """Layout of a call whose result is not empty."""
    g = problem.spec
    try:
        from fastattn.implementations._numba.ir import LANES_BYTES, TILE_ROWS, TILE_VECTORS
    except ImportError as error:  # it is installed, but does not fit this NumPy or Python
        raise UnavailableError(
            format_error(
                "impl",
                f"'numba', whose import fails: {error}",
                "a numba that fits to this NumPy and Python",
                "install one, or use impl='cython' or impl='numpy'",
            )
        ) from error

    rows, batch, dim, dim_v = g.group * g.length_q, g.batch, g.dim, g.dim_v
    assert config.block_q and config.block_k and config.threads
    size = g.dtype.compute.itemsize
    lanes = LANES_BYTES // size
    width = TILE_VECTORS * lanes
    block_q, block_k = min(config.block_q, rows), max(1, min(config.block_k, g.length_k))
    row_blocks = -(-rows // block_q)
    items = batch * g.heads_kv * row_blocks
    few = block_q <= min(shape.FEW_ROWS, width)
    blocks = -(-g.length_k // block_k)
    per_split = blocks
    if few and items < _ITEMS_PER_THREAD * config.threads and config.threads > 1:
        least = _BYTES_PER_SPLIT // (block_k * (dim + dim_v) * g.dtype.itemsize)
        per_split = max(1, least, blocks * items // (_ITEMS_PER_THREAD * config.threads))
    splits = -(-blocks // per_split) if blocks else 1
    threads = min(config.threads, items * splits)
    panels = -(-block_q // width)
    whole_tiles = math.lcm(lanes, TILE_ROWS)
    chunk = _CHUNK_FEATURES // whole_tiles * whole_tiles
    one_chunk = dim <= chunk and dim_v <= chunk

    q, k, v = (problem.full(name).strides for name in "qkv")
    out = problem.full("out").strides
    lse = (0,) * len(q[1:]) if problem.lse is None else problem.full("lse").strides
    mask = (0,) * len(q) if problem.mask is None else problem.mask.strides
    per_batch = (0,) * len(g.batch_shape)
    offsets = per_batch if problem.offsets is None else problem.offsets.strides
    lengths = per_batch if problem.lengths is None else problem.lengths.strides

    in_place = k[-1] == size and g.dtype.itemsize == size and one_chunk and not few
    key_bytes = 0 if in_place else _up(min(dim, chunk), lanes) * size + _LINE_BYTES
    padded, padded_v = _up(dim, lanes), _up(dim_v, whole_tiles)
    key_rows = _up(block_k, math.lcm(2 * lanes, TILE_ROWS))
    inner = {
        "ROW_TABLE_BYTES": panels * width * 8,
        "QUERY_PANEL_BYTES": padded * width * size,
        "RESULT_PANEL_BYTES": padded_v * width * size,
        "SCORE_PANEL_BYTES": key_rows * width * size,
        "KEY_BYTES": key_bytes,
        "VALUE_GROUP_BYTES": block_k * TILE_ROWS * size,
        "STAGE_BYTES": _up(max(dim, dim_v), lanes) * size,
        "MASK_ROW_BYTES": 0 if problem.mask is None else key_rows * size,
        "QUERY_ROW_BYTES": padded * size,
        "RESULT_ROW_BYTES": padded_v * size,
        "SCORE_ROW_BYTES": key_rows * size,
        "PART_BYTES": shape.FEW_ROWS * (2 + padded_v) * size if few else 0,
    }
    regions = {
        "ROW_TABLES": len(shape.ROW_TABLE) * inner["ROW_TABLE_BYTES"],
        "PANEL_TABLE": len(shape.PANEL_CELL) * 8 * panels,
        "STAGE_TABLE": 8 * lanes,
        "STATE": len(shape.STATE_ROW) * inner["ROW_TABLE_BYTES"],
        "LANES": len(shape.LANE_ROW) * width * size,
        "QUERIES": panels * inner["QUERY_PANEL_BYTES"],
        "RESULT": panels * inner["RESULT_PANEL_BYTES"],
        "SCORES": (1 if one_chunk else panels) * inner["SCORE_PANEL_BYTES"],
        "KEYS": (2 * lanes if few else block_k) * key_bytes,
        "VALUES": -(-min(dim_v, chunk) // TILE_ROWS) * inner["VALUE_GROUP_BYTES"],
        "STAGE": (lanes + 1) * inner["STAGE_BYTES"],
        "MASK": width * inner["MASK_ROW_BYTES"],
        "PART": inner["PART_BYTES"],
    }
    places, arena_bytes = {}, 0
    for name, count in regions.items():
        places[name] = arena_bytes
        arena_bytes += _up(count, _LINE_BYTES)

    counted = _up(shape.HEADER_BYTES + (8 * items if splits > 1 else 0), _LINE_BYTES)
    parts_bytes = items * blocks * inner["PART_BYTES"] if splits > 1 else 0

    numbers: dict[str, int] = {
        "ITEMS": items,
        "ROW_BLOCKS": row_blocks,
        "HEADS_KV": g.heads_kv,
        "GROUP": g.group,
        "LENGTH_Q": g.length_q,
        "LENGTH_K": g.length_k,
        "DIM": dim,
        "DIM_V": dim_v,
        "BLOCK_Q": block_q,
        "BLOCK_K": block_k,
        "CHUNK": chunk,
        "FEW": few,
        "SPLITS": splits,
        "BLOCKS_PER_SPLIT": per_split,
        "BLOCKS": blocks,
        "PARTS": counted,
        "ARENAS": counted + parts_bytes,
        "ARENA_BYTES": arena_bytes,
        "LEFT": shape.UNLIMITED if g.band.left is None else g.band.left,
        "RIGHT": shape.UNLIMITED if g.band.right is None else g.band.right,
        "KIND": shape.KINDS[g.dtype.name],
        "IN_PLACE": g.dtype.itemsize == size,
        "MASK_KIND": _kind(problem.mask),
        "SINK_KIND": _kind(problem.sinks),
        "SINK_E": 0 if problem.sinks is None else problem.sinks.strides[0],
        "ZERO": 0,
        "BATCH_AXES": len(g.batch_shape),
        **places,
        **inner,
    }
    for name, strides in {"Q": q, "K": k, "V": v, "OUT": out, "MASK": mask}.items():
        numbers |= zip((f"{name}_H", f"{name}_R", f"{name}_E"), strides[-3:], strict=True)
    numbers |= zip(("LSE_H", "LSE_R"), lse[-2:], strict=True)

    axes = len(g.batch_shape)
    batched = (q, k, v, out, lse, mask, offsets, lengths)
    columns = [g.batch_shape, *(strides[:axes] for strides in batched)]
    batch_table = [column[axis] for axis in reversed(range(axes)) for column in columns]
    table = np.array([*(numbers[name] for name in shape.TABLE), *batch_table], np.int64)
    scratch_bytes = counted + parts_bytes + threads * arena_bytes
    counters = counted // 8 if splits > 1 else 2
    return _Layout(table, g.dtype.compute.type(0), scratch_bytes // 8, counters, threads)


def _kind(array: np.ndarray | None) -> int:
    return shape.NO_KIND if array is None else shape.KINDS[array.dtype.name]


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


@functools.cache
def _kernel() -> Any:
    from fastattn.implementations._numba.intrinsics import OBJECT_HEADER
    from fastattn.implementations._numba.kernel import kernel

    # The kernel finds the address of an array's data right behind its object's header.  Refuse an
    # interpreter that lays objects out in another way, before a wrong address is read.
    probe = np.empty(1)
    behind_header = ctypes.c_ssize_t.from_address(id(probe) + OBJECT_HEADER).value
    if behind_header != probe.__array_interface__["data"][0]:
        raise UnavailableError(
            format_error(
                "impl",
                "'numba' on an interpreter with another object layout",
                "CPython's",
                "use impl='cython' or impl='numpy'",
            )
        )
    return kernel
