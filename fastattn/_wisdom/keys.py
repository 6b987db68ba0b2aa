"""What a remembered configuration is valid for: a machine and build, and a bucket of problems.

Sizes are grouped in half octaves.  The bucket of n is ``round(2 log2 n)``, so that powers of
two, which most sizes are, lie in the middle of their buckets.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastattn import _env
from fastattn._machine import (
    caches_bytes,
    cpu_fields,
    has_kernel,
    offered_isas,
    refusal,
    usable_cpus,
)
from fastattn._spec import CallSpec
from fastattn._threads import thread_limit
from fastattn._version import __version__
from fastattn.implementations import REGISTRY, load

__all__ = [
    "TUNING_ABI",
    "Key",
    "bucket",
    "candidates",
    "canonical",
    "cpu",
    "digest",
    "environment",
    "here",
    "key_of",
    "limits",
    "size_of",
]

TUNING_ABI = 2
"""To be raised when a field of `Config` changes its meaning: older wisdom is then ignored."""

# As Linux names them, on x86 and on ARM.
_CPU_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
)
# Buckets that may lend a winner are at most an octave away in each size; the nearest come first.
_STEPS = sorted(
    (step for step in itertools.product(range(-2, 3), repeat=3) if any(step)),
    key=lambda step: (sum(map(abs, step)), max(map(abs, step)), step),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A bucket of problems, the limits that hold for them, and the `impl` that was requested.

    `group`, the number of query heads per key head, is rounded up to a power of two, of which
    the exponent is kept; `heads` (B Hkv), `length_q`, `length_k` and the reach of `window` are
    buckets.
    """

    operation: str
    requested: str
    dtype: str
    causal: bool
    window: tuple[int | None, int | None] | None
    dim: int
    dim_v: int
    group: int
    heads: int
    length_q: int
    length_k: int
    threads: int
    isa: str | None


def bucket(count: int) -> int:
    """``round(2 log2 count)`` of a whole number from 1 up, exactly."""
    return ((2 * count**4).bit_length() - 1) // 2


def size_of(spec: CallSpec) -> dict[str, int]:
    """The part of a key that follows from the shapes."""
    return {
        "dim": spec.dim,
        "dim_v": spec.dim_v,
        "group": (spec.group - 1).bit_length(),
        "heads": bucket(spec.batch * spec.heads_kv),
        "length_q": bucket(spec.length_q),
        "length_k": bucket(spec.length_k),
    }


def key_of(spec: CallSpec, requested: str, threads: int, isa: str | None) -> Key:
    """Key of a problem with work in it, under these limits."""
    window = None
    if spec.window is not None:
        left, right = (None if reach is None else bucket(reach + 1) for reach in spec.window)
        window = left, right
    return Key(
        operation=spec.operation,
        requested=requested,
        dtype=spec.dtype.name,
        causal=spec.causal,
        window=window,
        threads=threads,
        isa=isa,
        **size_of(spec),
    )


def candidates(key: Key) -> Iterator[tuple[Key, bool]]:
    """Keys whose winners may serve `key`, the nearest first, and whether each is in its bucket.

    The best of all implementations is also the best of its own, so if one was requested, what
    was found for "auto" may serve too.
    """
    for heads, length_q, length_k in ((0, 0, 0), *_STEPS):
        for requested in dict.fromkeys((key.requested, "auto")):
            near = replace(
                key,
                requested=requested,
                heads=key.heads + heads,
                length_q=key.length_q + length_q,
                length_k=key.length_k + length_k,
            )
            yield near, not (heads or length_q or length_k)


def limits(spec: CallSpec) -> tuple[int, str | None]:
    """Most threads that wisdom may choose, and the instruction set that is forced, if one is.

    An instruction set without a kernel for the call forces nothing.
    """
    isa = _env.forced_isa()
    if isa is not None and refusal(isa) is None:
        isa = isa if has_kernel(isa, spec.operation, spec.dtype.code) else None
    return thread_limit()[0], isa


@functools.cache
def environment(dtype: str, operation: str = "forward") -> dict[str, Any]:
    """What timings depend on besides the problem: processor, limits, builds.  Do not modify it.

    Of the instruction sets, those of build and processor with a kernel for the data type count.
    That the operating system may not permit one of them is found out when it would serve a call.
    """
    import platform

    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": cpu(),
        "usable_cpus": usable_cpus(),
        "caches_bytes": dict(caches_bytes()),
        "isas": offered_isas(dtype, operation),
        "tuning_abi": TUNING_ABI,
        "fastattn": __version__,
        "implementations": {name: load(name).fingerprint() for name in REGISTRY},
    }


@functools.cache
def here(dtype: str, operation: str = "forward") -> str:
    """Digest of `environment`."""
    return digest(environment(dtype, operation))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=environment.cache_clear)
    os.register_at_fork(after_in_child=here.cache_clear)


def cpu(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> str:
    """Vendor, family, model and stepping; or what Python knows, if the system does not tell."""
    import platform

    fields = cpu_fields(cpuinfo)
    found = [fields[name] for name in _CPU_FIELDS if fields.get(name)]
    return "-".join(found) or platform.processor() or platform.machine()


def canonical(value: Any) -> str:
    """The one JSON text of a value; ValueError or TypeError if it has none."""
    import json  # here and below: a call without wisdom does not need these

    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Name of a value, the same in every process; a `Key` counts as its fields."""
    import hashlib

    value = asdict(value) if isinstance(value, Key) else value
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]
