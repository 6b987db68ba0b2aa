"""The roofline: what this machine can compute and read at most, measured by probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastattn._config import MOST_THREADS
from fastattn._dtypes import DTYPES
from fastattn._env import forced_isa
from fastattn._errors import ArgumentError, ArgumentTypeError, UnavailableError
from fastattn._machine import binding, check_runnable, machine, native
from fastattn._threads import threading_backend

__all__ = ["Roofline", "roofline"]

_LIMITS = 5  # that the binding measures: two compute types, bfloat16, stream, cache
_REPETITIONS = 5
_LONGEST_SECONDS = 60.0

# The stream is read from far more memory than all caches hold, however many threads read.
_STREAM_BYTES = 256 * 2**20
_STREAM_BYTES_PER_THREAD = 32 * 2**20
_STREAM_OVER_L3 = 4
# Memory that is read again and again is to stay in L2, beside whatever else is there.
_CACHED_SHARE = 0.5
_L2_DEFAULT_BYTES = 256 * 1024
_PROBE_STEP_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Roofline:
    """Limits of the machine, for all threads together.

    Attributes
    ----------
    isa : str
        Instruction set of the probes.
    threads : int
        Threads that ran at the same time.
    fma_flops_per_second : mapping of str to float
        Peak of multiplications and additions per second by FMA in registers, for each data type.
        A fused multiply-add counts as two.  16-bit types are computed in float32.
    stream_bytes_per_second : float
        Highest rate of reading memory that is in no cache.
    l2_bytes_per_second : float
        Highest rate at which the threads read their own L2 caches.
    bfloat16_flops_per_second : float or None
        Peak of multiplications and additions per second by the instruction set's products of
        bfloat16 numbers: ``amx`` has tiles, ``avx512_bf16`` has pairs; None if there is no such
        instruction.  A kernel that computes one product of float32 numbers by several of these
        cannot reach it.

    Examples
    --------
    >>> import fastattn
    >>> roof = fastattn.Roofline("avx2", 1, {"float32": 96e9}, 12e9, 60e9)
    >>> roof.fma_flops_per_second["float32"] / roof.stream_bytes_per_second  # ridge, FLOP/byte
    8.0
    """

    isa: str
    threads: int
    fma_flops_per_second: Mapping[str, float]
    stream_bytes_per_second: float
    l2_bytes_per_second: float
    bfloat16_flops_per_second: float | None = None


def roofline(isa: str | None = None, threads: int = 1, *, seconds: float = 1.0) -> Roofline:
    """Measure the machine's limits of arithmetic and of reading memory.

    A call cannot take less time than its multiplications and additions take at
    `fma_flops_per_second` (or, in bfloat16, at `bfloat16_flops_per_second` if that is more), nor
    less time than reading its inputs takes at `stream_bytes_per_second`.

    Parameters
    ----------
    isa : str, optional
        Instruction set, a name from ``fastattn.machine().isas``.  Default: that of
        ``FASTATTN_ISA``, or the best.
    threads : int, default 1
        Threads that run at the same time, 1 to 1,024.  More than the usable CPUs is not useful.
    seconds : float, default 1.0
        Time to spend, in seconds, above 0 and up to 60.  Preparing the memory takes about a tenth
        of a second more.

    Returns
    -------
    Roofline

    Raises
    ------
    ArgumentError, ArgumentTypeError
        `threads` or `seconds` out of range, or an argument of the wrong type.
    UnavailableError
        The instruction set cannot run here, the extension is not built, or that many
        threads cannot be started.
    MemoryError
        The memory to read cannot be allocated: at least the largest of 256 MiB, 32 MiB
        per thread and four times the L3 cache.

    Notes
    -----
    The limits are measured alternately, five times each, and the best of each counts, because
    other processes can only lower a rate.  The probes are in ``src_cpp/kernel/probes.hpp``.
    Tiles are multiplied with random numbers: with zeros, AMX ran up to a fifth faster.

    A kernel can exceed the FMA peak of float32 and float16 where it computes them as sums of
    bfloat16 products.

    References
    ----------
    Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
    for multicore architectures", CACM 52(4), 2009.

    Examples
    --------
    >>> import fastattn
    >>> if fastattn.machine().isas:
    ...     roof = fastattn.roofline(seconds=0.01)
    ...     assert roof.fma_flops_per_second["float32"] > roof.fma_flops_per_second["float64"] / 2
    """
    index, name = _row(isa)
    count = _threads(threads)
    window_seconds = _seconds(seconds) / (_REPETITIONS * _LIMITS)
    here = machine()
    caches = here.caches_bytes
    l2_bytes = int(caches.get("L2", _L2_DEFAULT_BYTES) * _CACHED_SHARE)
    found = binding().roofline(
        index,
        count,
        here.usable_cpus,
        threading_backend()[0],
        _REPETITIONS,
        window_seconds,
        max(
            _STREAM_BYTES,
            _STREAM_BYTES_PER_THREAD * count,
            _STREAM_OVER_L3 * caches.get("L3", 0),
        ),
        max(1, l2_bytes // _PROBE_STEP_BYTES) * _PROBE_STEP_BYTES,
    )
    if found is None:
        raise UnavailableError(
            "threads", str(count), "as many as the system lets this process start", "ask for fewer"
        )
    flops32, flops64, bfloat16, stream, cached = found
    by_compute = {np.dtype(np.float32): flops32, np.dtype(np.float64): flops64}
    return Roofline(
        isa=name,
        threads=count,
        fma_flops_per_second={row.name: by_compute[row.compute] for row in DTYPES.values()},
        stream_bytes_per_second=stream,
        l2_bytes_per_second=cached,
        bfloat16_flops_per_second=bfloat16 or None,
    )


def _row(isa: str | None) -> tuple[int, str]:
    """Index and name of the row of the ISA table."""
    origin, name = ("isa", isa) if isa is not None else ("FASTATTN_ISA", forced_isa())
    here = machine()
    if name is not None and not isinstance(name, str):
        raise ArgumentTypeError(
            origin, repr(name), "None or a name", "take one of fastattn.machine().isas"
        )
    if (reason := native()[1]) is not None:
        raise UnavailableError("isa", repr(isa), "the compiled extension's", f"build it: {reason}")
    name = name or here.isas[0]
    check_runnable(name, origin)
    return binding().ISAS.index(name), name


def _threads(threads: object) -> int:
    accepted, fix = f"a whole number from 1 to {MOST_THREADS}", "leave it out for 1"
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
        raise ArgumentTypeError("threads", repr(threads), accepted, fix)
    if not 1 <= threads <= MOST_THREADS:
        raise ArgumentError("threads", repr(threads), accepted, fix)
    return int(threads)


def _seconds(seconds: object) -> float:
    accepted, fix = f"a number above 0, up to {_LONGEST_SECONDS:g}", "leave it out for 1"
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | np.number):
        raise ArgumentTypeError("seconds", repr(seconds), accepted, fix)
    if not 0 < float(seconds) <= _LONGEST_SECONDS:
        raise ArgumentError("seconds", repr(seconds), accepted, fix)
    return float(seconds)
