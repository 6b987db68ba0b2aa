"""Attention in Numba: a tiled kernel, compiled for this processor on its first call.

Purpose: choose a configuration, bring a call's arrays into the kernel's form, share the work
among threads.  The computation itself is in the package `_numba`.

The work is cut into items, batch entry x key head x block of `block_q` rows; threads take
some of them at a time from one queue.  The GIL is released while they compute.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from fastattn._config import MOST_THREADS, Config
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._threads import wanted_threads

NAME = "numba"
SUMMARY = "a tiled kernel that Numba compiles for this processor"
TUNABLES: frozenset[str] = frozenset({"block_q", "block_k", "threads"})
MASKS: frozenset[str] = frozenset({"dense", "causal", "window", "lengths"})

_BLOCK_Q = 256
_BLOCK_K = 128
_PANEL = 32  # rows; a multiple of most panels' width
_WORK_PER_THREAD = 4_000_000  # multiply-adds that are worth waking a thread
_WORK_PER_CALL = 100_000_000  # after so many, a thread returns to Python, which hears Ctrl-C
_CALLS_PER_THREAD = 8
_UNLIMITED = 2**52  # a side of a band; positions stay below 2**49
_HALVES = {"float16": 1, "bfloat16": 2}  # as in `_numba.rows`
_COMPILING = threading.Lock()


@functools.cache
def missing() -> str | None:
    """Why this implementation cannot run here; None if it can.  Imports Numba."""
    try:
        import numba
        import numba.extending
    except Exception as error:  # absent, or not made for this NumPy or Python
        return f"the package numba cannot be imported: {type(error).__name__}: {error}"
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return "NUMBA_DISABLE_JIT is set"
    return None


def supports(spec: CallSpec) -> str | None:
    """Why it cannot compute such a call; always None, as it computes all of them."""
    return None


def fingerprint() -> dict[str, str]:
    """Versions on which the speed of a configuration depends."""
    found = {}
    for name in ("numba", "llvmlite"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def configure(spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
    """Fill the open fields, and give the reason for each."""
    reasons = {}
    threads, block_q, block_k = config.threads, config.block_q, config.block_k
    if threads is None:
        threads, reasons["threads"] = wanted_threads(None, spec.multiply_adds, _WORK_PER_THREAD)
    if block_q is None:
        block_q, reasons["block_q"] = _BLOCK_Q, "keeps a block of queries and results in cache"
        heads, rows = max(1, spec.batch * spec.heads_kv), max(1, spec.group * spec.length_q)
        blocks = -(-threads // heads)  # of a head's rows: at least one for each thread
        blocks = -(-max(blocks, -(-rows // _BLOCK_Q)) // blocks) * blocks
        if -(-rows // blocks) < _BLOCK_Q:
            block_q = -(-rows // blocks // _PANEL) * _PANEL
            reasons["block_q"] = "equal blocks of rows, enough for all threads"
    if block_k is None:
        block_k, reasons["block_k"] = _BLOCK_K, "keeps a block of keys and values in cache"
    return Config(block_q=block_q, block_k=block_k, threads=threads), reasons


def prepare(spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """Nothing is compiled before the first call."""
    return functools.partial(_run, config)


def _run(config: Config, problem: Problem) -> None:
    """Compute the call and write `problem.out` and `problem.lse`."""
    spec, out = problem.spec, problem.out
    if not out.size:
        return
    assert config.block_q and config.block_k and config.threads  # filled by configure
    kernel, half = _kernel(spec.dtype.name), _HALVES.get(spec.dtype.name, 0)
    batch, compute = spec.batch_shape, spec.dtype.compute
    arrays = [problem.full(name) for name in ("q", "k", "v", "out")]
    if half:
        arrays = [array.view(np.uint16) for array in arrays]
    arrays.append(np.empty((*batch, 0, 0), compute) if problem.lse is None else problem.full("lse"))
    mask, kind = problem.mask, 0
    if mask is None:
        mask = np.empty((*batch, 0, 0, 0), np.uint8)
    elif mask.dtype == np.bool_:
        mask, kind = mask.view(np.uint8), 1
    else:
        kind = 2 if mask.dtype == np.float32 else 3
        mask = mask.view(np.uint16) if kind == 3 and half else mask
    for array, default in ((problem.offsets, 0), (problem.lengths, spec.length_k)):
        arrays.append(np.broadcast_to(np.int64(default), batch) if array is None else array)
    sinks = np.empty(0, compute) if problem.sinks is None else problem.sinks.astype(compute)
    band = spec.band
    limits = [_UNLIMITED if side is None else side for side in (band.left, band.right)]
    row_blocks = -(-spec.group * spec.length_q // config.block_q)
    absent = _absent_masks(arrays[0].dtype)

    # The kernel knows one batch axis.
    for index in np.ndindex(*batch[:-1]):
        q, k, v, o, lse, m, offsets, lengths = (
            array[index] if batch else array[None] for array in (*arrays[:5], mask, *arrays[5:])
        )
        masks = tuple(m if i + 1 == kind else array for i, array in enumerate(absent))
        arguments = (
            q, k, v, o, lse, masks, kind, offsets, lengths, sinks, *limits, spec.scale,
            spec.softcap or 0.0, half, config.block_q, config.block_k,
        )  # fmt: skip
        items = q.shape[0] * spec.heads_kv * row_blocks
        each = spec.multiply_adds // (spec.batch * spec.heads_kv * row_blocks)
        count = max(
            1, min(items // (_CALLS_PER_THREAD * config.threads), _WORK_PER_CALL // (each + 1))
        )
        _share(functools.partial(kernel, *arguments), items, count, config.threads)


@functools.cache
def _executor() -> ThreadPoolExecutor:
    """Helpers of all calls; a thread is started when none is idle."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="fastattn")


if hasattr(os, "register_at_fork"):  # a child has no threads but the one that forked
    os.register_at_fork(after_in_child=_executor.cache_clear)


def _share(work: Callable[[int, int], object], items: int, count: int, threads: int) -> None:
    """Call ``work(begin, end)`` for all of `items`, `count` of them at a time.

    The caller takes part; it waits only for helpers that have begun.  Returns when nothing
    is being computed any more, also if `work` or a signal handler raises.
    """
    ranges = deque((begin, min(items, begin + count)) for begin in range(0, items, count))

    def drain() -> None:
        while True:
            try:
                begin, end = ranges.popleft()
            except IndexError:
                return
            work(begin, end)

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(threads, len(ranges)) - 1):
            try:
                helpers.append(_executor().submit(drain))
            except RuntimeError:  # the system allows no more, or Python is shutting down
                break
        drain()
    finally:
        ranges.clear()
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


@functools.lru_cache(maxsize=8)
def _absent_masks(dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """One empty array for each kind of mask, as the kernel's `masks`."""
    return tuple(np.empty((0, 0, 0, 0), kind) for kind in (np.uint8, np.float32, dtype))


@functools.cache
def _kernel(dtype: str) -> Callable[..., object]:
    """The kernel for a data type: compiled, or loaded from disk."""
    from fastattn.implementations._numba.cache import compiled

    with _COMPILING:
        kernel: Callable[..., object] = compiled(dtype)  # type: ignore[no-untyped-call]
    return kernel
