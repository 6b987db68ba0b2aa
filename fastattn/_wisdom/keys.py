"""What a remembered configuration is valid for: a machine and build, and a class of problems.

Sizes are grouped in half octaves.  The bucket of n is ``round(2 log2 n)``, so that powers of
two, which most sizes are, lie in the middle of their buckets.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from fastattn import _env
from fastattn._machine import machine, native
from fastattn._spec import CallSpec
from fastattn._threads import thread_limit
from fastattn._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "TUNING_ABI",
    "Key",
    "bucket",
    "candidates",
    "canonical",
    "caps",
    "cpu",
    "digest",
    "environment",
    "here",
    "key_of",
    "size_of",
]

TUNING_ABI = 1
"""To be raised when a field of `Config` changes its meaning: older wisdom is then foreign."""

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
# A neighbour is at most an octave away in each size; the nearest comes first.
_STEPS = sorted(
    (step for step in itertools.product(range(-2, 3), repeat=3) if any(step)),
    key=lambda step: (sum(map(abs, step)), max(map(abs, step)), step),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A class of problems, the limits that hold for them, and which `impl` was asked for.

    `group`, the number of query heads per key head, is rounded up to a power of two, of which
    the exponent is kept; `heads` (B Hkv), `length_q`, `length_k` and the reach of `window` are
    buckets.
    """

    op: str
    asked: str
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

    def document(self) -> dict[str, Any]:
        """The key as it is written down."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def bucket(count: int) -> int:
    """``round(2 log2 count)`` of a whole number from 1 up, exactly."""
    return ((2 * count**4).bit_length() - 1) // 2


def size_of(spec: CallSpec) -> dict[str, int]:
    """The part of a key that follows from the shapes."""
    g = spec
    return {
        "dim": g.dim,
        "dim_v": g.dim_v,
        "group": (g.group - 1).bit_length(),
        "heads": bucket(g.batch * g.heads_kv),
        "length_q": bucket(g.length_q),
        "length_k": bucket(g.length_k),
    }


def key_of(spec: CallSpec, asked: str, threads: int, isa: str | None) -> Key:
    """Key of a problem with work in it, under these limits."""
    g = spec
    window = None
    if g.window is not None:
        left, right = (None if reach is None else bucket(reach + 1) for reach in g.window)
        window = left, right
    return Key(
        op="attention",
        asked=asked,
        dtype=g.dtype.name,
        causal=g.causal,
        window=window,
        threads=threads,
        isa=isa,
        **size_of(g),
    )


def candidates(key: Key) -> Iterator[tuple[Key, bool]]:
    """Keys whose winners may serve `key`, the best first, and whether each is in its bucket.

    The best of all implementations is also the best of its own, so if one was asked for, what
    was found for "auto" may serve too.
    """
    asked = dict.fromkeys((key.asked, "auto"))
    for heads, length_q, length_k in ((0, 0, 0), *_STEPS):
        for name in asked:
            near = replace(
                key,
                asked=name,
                heads=key.heads + heads,
                length_q=key.length_q + length_q,
                length_k=key.length_k + length_k,
            )
            yield near, not (heads or length_q or length_k)


def caps() -> tuple[int, str | None]:
    """Most threads that wisdom may choose, and the instruction set that is forced, if one is."""
    return thread_limit()[0], _env.forced_isa()


@functools.cache
def environment() -> dict[str, Any]:
    """What timings depend on besides the problem: processor, limits, build.  Do not modify it."""
    import hashlib  # here and below: a call without wisdom does not need these
    import platform
    from importlib import metadata
    from pathlib import Path

    binding, _ = native()
    extension = None
    if binding is not None and binding.__file__ is not None:
        try:
            with open(binding.__file__, "rb") as file:
                extension = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # replaced by another installation, say
            extension = "unreadable"
    try:
        numba = metadata.version("numba")
    except metadata.PackageNotFoundError:
        numba = None
    described = machine()
    return {
        "system": platform.system(),
        "architecture": described.architecture,
        "cpu": cpu(Path("/proc/cpuinfo")),
        "usable_cpus": described.usable_cpus,
        "caches_bytes": dict(described.caches_bytes),
        "isas": list(described.isas),
        "tuning_abi": TUNING_ABI,
        "fastattn": __version__,
        "extension": extension,
        "numba": numba,
    }


@functools.cache
def here() -> str:
    """Digest of `environment`."""
    return digest(environment())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=environment.cache_clear)
    os.register_at_fork(after_in_child=here.cache_clear)


def cpu(cpuinfo: Path) -> str:
    """Vendor, family, model and stepping; or what Python knows, if the file does not tell."""
    import platform

    try:
        first, _, _ = cpuinfo.read_text().partition("\n\n")
    except OSError:
        first = ""
    lines = (line.partition(":") for line in first.splitlines())
    told = {name.strip(): value.strip() for name, _, value in lines}
    found = [told[name] for name in _CPU_FIELDS if told.get(name)]
    return "-".join(found) or platform.processor() or platform.machine()


def canonical(value: Any) -> str:
    """The one JSON text of a value; ValueError or TypeError if it has none."""
    import json

    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Name of a value, the same in every process."""
    import hashlib

    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]
