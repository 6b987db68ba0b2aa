"""Attention in Numba: a tiled kernel, compiled for this processor on its first call.

This module chooses a configuration, converts a call's arrays and shares the work among threads,
which take some work items (batch entry x key head x block of `block_q` rows) at a time from a
queue.  The package `_numba` computes, without the GIL.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from fastattn._arithmetic import in_default_arithmetic
from fastattn._config import MOST_THREADS, Config
from fastattn._errors import UnavailableError
from fastattn._optional import import_failure
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._threads import used_threads, wanted_threads

NAME = "numba"
SUMMARY = "tiled kernel in Python, compiled by Numba for this processor at the first call"
TUNABLES: frozenset[str] = frozenset({"block_q", "block_k", "threads"})
MASKS: frozenset[str] = frozenset({"dense", "causal", "window", "lengths"})

_BLOCK_Q, _QUERY_BYTES = 256, 2**20  # rows at most, and bytes of queries and results
_BLOCK_K, _KEY_BYTES = 128, 2**19
_PANEL = 32  # rows; a multiple of most panels' width
_WORK_PER_THREAD = 4_000_000  # multiply-adds that are worth waking a thread
_WORK_PER_CALL = 100_000_000  # after so many, a thread returns to Python, which hears Ctrl-C
_CALLS_PER_THREAD = 8
_UNLIMITED = 2**52  # a side of a band; positions stay below 2**49
_uncompiled: list[str] = []  # why the kernel cannot be compiled, once a call has met that


def missing() -> str | None:
    """Why this implementation cannot run here; None if it can.  Imports Numba."""
    return _uncompiled[0] if _uncompiled else _not_importable()


@functools.cache
def _not_importable() -> str | None:
    if (reason := import_failure("numba", "numba.extending")) is not None:
        return f"the package numba cannot be imported: {reason}"
    from numba.core import config

    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return "NUMBA_DISABLE_JIT is set"
    if (reason := import_failure("fastattn.implementations._numba.cache")) is not None:
        return f"this version of numba does not fit: {reason}"
    return None


def supports(spec: CallSpec) -> str | None:
    """Why it cannot compute such a call; always None, as it computes all of them."""
    return None


def fingerprint() -> dict[str, str]:
    """Versions on which the speed of a configuration depends; none if Numba is absent."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return {name: importlib.metadata.version(name) for name in ("numba", "llvmlite")}
    return {}


def configure(spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
    """Fill the open fields, and give the reason for each."""
    reasons, block_q, block_k = {}, config.block_q, config.block_k
    threads, reason = wanted_threads(config.threads, spec.multiply_adds, _WORK_PER_THREAD)
    heads, rows = spec.batch * spec.heads_kv, max(1, spec.group * spec.length_q)
    row_bytes = max(1, (spec.dim + spec.dim_v) * spec.dtype.compute.itemsize)
    if block_q is None:
        paid = min(threads, max(1, spec.multiply_adds // _WORK_PER_THREAD))
        each = -(-paid // max(1, heads))  # blocks of a head's rows: a multiple of this
        most = max(_PANEL, min(_BLOCK_Q, _QUERY_BYTES // row_bytes))
        blocks = -(-rows // (most * each)) * each
        block_q = max(1, -(-rows // (blocks * _PANEL))) * _PANEL
        reasons["block_q"] = "equal blocks that stay in cache; some for each thread that pays"
    if block_k is None:
        block_k = max(16, min(_BLOCK_K, _KEY_BYTES // row_bytes))
        reasons["block_k"] = "keeps a block of keys and values in cache"
    threads, reason = used_threads(threads, reason, heads * -(-rows // block_q))
    if threads != config.threads:
        reasons["threads"] = reason
    return Config(block_q=block_q, block_k=block_k, threads=threads), reasons


def prepare(spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """Work out what does not depend on the arrays; nothing is compiled before the first call."""
    block_q, block_k, threads = config.block_q, config.block_k, config.threads
    assert block_q and block_k and threads  # filled by configure
    batch, compute, name = spec.batch_shape, spec.dtype.compute, spec.dtype.compute.name
    absent = [np.empty((0,) * 4, kind) for kind in ("u1", compute)]
    no_lse, no_mask = np.empty((*batch, 0, 0), compute), np.empty((*batch, 0, 0, 0), "u1")
    no_offsets, all_keys = np.zeros(batch, np.int64), np.full(batch, spec.length_k)
    sides = [_UNLIMITED if side is None else side for side in (spec.band.left, spec.band.right)]
    items = -(-spec.group * spec.length_q // block_q) * spec.heads_kv * (1, *batch)[-1]
    work = spec.multiply_adds * (1, *batch)[-1] // max(1, spec.batch)
    at_once = min(items // (_CALLS_PER_THREAD * threads), _WORK_PER_CALL * items // (work + 1))

    def run(problem: Problem) -> None:
        if not problem.out.size:
            return
        kernel = _kernel(name)
        mask, kind = problem.mask, 0
        if mask is not None:
            kind = 1 if mask.dtype == np.bool_ else 2
            mask = mask.view("u1") if kind == 1 else _converted(mask, compute)
        out = problem.full("out")
        result = out if out.dtype == compute else np.empty(out.shape, compute)
        arrays = [_converted(problem.full(x), compute) for x in ("q", "k", "v")]
        arrays += (
            result,
            no_lse if problem.lse is None else problem.full("lse"),
            no_mask if mask is None else mask,
            no_offsets if problem.offsets is None else problem.offsets,
            all_keys if problem.lengths is None else problem.lengths,
        )
        sinks = np.asarray(() if problem.sinks is None else problem.sinks, compute)
        for index in np.ndindex(batch[:-1]) if len(batch) > 1 else [()]:  # it knows one batch axis
            q, k, v, o, lse, m, offsets, lengths = (
                array[index] if batch else array[None] for array in arrays
            )
            masks = tuple(m if i + 1 == kind else array for i, array in enumerate(absent))
            attend = functools.partial(
                kernel, q, k, v, o, lse, masks, kind, offsets, lengths, sinks, *sides,
                *spec.factors, spec.softcap or 0.0, block_q, block_k,
            )  # fmt: skip
            _share(attend, items, max(1, at_once), threads)
        if result is not out:
            with np.errstate(all="ignore"):
                np.copyto(out, result, casting="unsafe")

    return lambda problem: in_default_arithmetic(run, problem)


def _kernel(name: str) -> Callable[..., object]:
    """The kernel that computes in a data type; UnavailableError if Numba cannot compile it here."""
    from fastattn.implementations._numba.cache import compiled  # imports Numba

    try:
        return compiled(name)  # type: ignore[no-any-return]
    except MemoryError:
        raise
    except Exception as error:  # Numba's and LLVM's have no base of their own
        _uncompiled[:] = [f"numba cannot compile its kernel: {type(error).__name__}: {error}"]
        fix = f"use impl='auto'; the reason is: {_uncompiled[0]}"
        raise UnavailableError("impl", "'numba'", "one that runs here", fix) from error


def _converted(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in another data type; it repeats along the same axes, which takes no memory."""
    if array.dtype == dtype:
        return array
    once = array[tuple(slice(None if step else 1) for step in array.strides)]
    with np.errstate(all="ignore"):  # NaN is data
        return np.broadcast_to(once.astype(dtype), array.shape)


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
        if begun:
            wait(begun)
    for helper in begun:
        helper.result()
