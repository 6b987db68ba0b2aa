"""A good call, and how a change to it is refused: for `test_refusals*.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import FastattnError

F32 = np.float32


def good() -> dict[str, Any]:
    """A call that is accepted: B 2, Hq 4, Hkv 2, Lq 5, Lk 7, D 8, Dv 6."""
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((2, 4, 5, 8), dtype=F32),
        "k": rng.standard_normal((2, 2, 7, 8), dtype=F32),
        "v": rng.standard_normal((2, 2, 7, 6), dtype=F32),
        "out": np.full((2, 4, 5, 6), 7, F32),
    }


def zeros(*shape: int, dtype: Any = F32) -> np.ndarray:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


@dataclass(frozen=True)
class Refusal:
    """A change to the good call, the error it brings, and a word of its message."""

    name: str
    change: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]
    error: type[FastattnError]
    argument: str

    def arguments(self) -> dict[str, Any]:
        """The whole bad call."""
        call = good()
        change = self.change(call) if callable(self.change) else self.change
        return {**call, **change}


def assert_teaches(message: str, argument: str) -> None:
    """It names the argument, what came, what is accepted and the fix."""
    assert argument in message
    for word in ("`", "received ", "accepted: ", "Fix: "):
        assert word in message, message


def refuse(refusal: Refusal, **how: Any) -> None:
    """The call, and its explanation, raise the row's error; nothing is written."""
    call = {**refusal.arguments(), **how}
    arrays = [call.pop(name) for name in "qkv"]
    out = call["out"]
    kept = out.copy() if isinstance(out, np.ndarray) and out.size < 10_000 else None
    with pytest.raises(refusal.error) as caught:
        fastattn.attention(*arrays, **call)
    assert isinstance(caught.value, FastattnError)
    assert_teaches(str(caught.value), refusal.argument)
    if kept is not None:
        assert kept.tobytes() == out.tobytes()
    with pytest.raises(refusal.error):
        fastattn.explain(*arrays, **call)
