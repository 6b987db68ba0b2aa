"""Entries of wisdom for the tests: problems, winners, and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import Config, _wisdom
from fastattn._normalise import normalise
from fastattn._spec import CallSpec
from fastattn._wisdom import keys, store
from fastattn._wisdom.entry import Entry, from_document

IMPL = next(name for name, reason in fastattn.implementations().items() if reason is None)
SHAPE = (1, 4, 2, 64, 64, 16, 16)
WINNER = Config(block_q=24, block_k=16)

if IMPL == "numpy":
    pytest.skip("no implementation has blocks here", allow_module_level=True)


def arrays(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> tuple[np.ndarray, ...]:
    """q, k and v for B, Hq, Hkv, Lq, Lk, D, Dv: random, always the same."""
    batch, heads_q, heads_kv, length_q, length_k, dim, dim_v = shape
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((batch, heads_q, length_q, dim)).astype(dtype),
        rng.standard_normal((batch, heads_kv, length_k, dim)).astype(dtype),
        rng.standard_normal((batch, heads_kv, length_k, dim_v)).astype(dtype),
    )


def empty(shape: tuple[int, ...], dtype: str = "float32") -> tuple[np.ndarray, ...]:
    """The same, without memory."""
    batch, heads_q, heads_kv, length_q, length_k, dim, dim_v = shape
    zero = np.zeros((), dtype)
    return (
        np.broadcast_to(zero, (batch, heads_q, length_q, dim)),
        np.broadcast_to(zero, (batch, heads_kv, length_k, dim)),
        np.broadcast_to(zero, (batch, heads_kv, length_k, dim_v)),
    )


def spec(
    shape: tuple[int, ...] = SHAPE,
    dtype: str = "float32",
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
) -> CallSpec:
    """Of a call with arrays of that shape."""
    q, k, v = empty(shape, dtype)
    return normalise(q, k, v, causal=causal, window=window, align="bottom_right").spec


def remember(shape: tuple[int, ...] = SHAPE, config: Config = WINNER, **more: Any) -> Path:
    """Remember a winner of `IMPL`."""
    requested, evidence = more.pop("requested", "auto"), more.pop("evidence", {"seed": 1})
    return _wisdom.remember(spec(shape, **more), IMPL, config, evidence, requested=requested)


def document(path: Path | None = None, **changes: Any) -> dict[str, Any]:
    """An entry as it is written down; `changes` to its parts, ``limits__threads=3`` say."""
    said: dict[str, Any] = json.loads((path or remember()).read_text())
    for name, value in changes.items():
        part, *inner = name.split("__")
        if inner:
            said[part][inner[0]] = value
        else:
            said[part] = value
    return said


def foreign(path: Path | None = None, **changes: Any) -> Entry:
    """The entry of a machine with another processor, by its own account."""
    return from_document(document(path, environment__cpu="Z80-1", **changes))


def location(entry: Entry) -> Path:
    """Its path in the store."""
    return Path(store.folder(), *entry.location)


def here() -> Path:
    """Folder of this machine and build."""
    return Path(store.folder(), keys.here("float32"))
