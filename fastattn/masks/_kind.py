"""What a mask kind reads of a problem, and what it offers."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fastattn.masks._band import Band

__all__ = ["CallSpec", "Kind", "Problem"]


class CallSpec(Protocol):
    """Static facts a mask may read."""

    @property
    def causal(self) -> bool: ...
    @property
    def window(self) -> tuple[int | None, int | None] | None: ...
    @property
    def length_q(self) -> int: ...
    @property
    def length_k(self) -> int: ...


class Problem(Protocol):
    """Arrays a mask may read, all in the order (*batch, head, query, key)."""

    @property
    def spec(self) -> CallSpec: ...
    @property
    def mask(self) -> np.ndarray | None: ...
    @property
    def offsets(self) -> np.ndarray | None: ...
    @property
    def lengths(self) -> np.ndarray | None: ...


class Kind(Protocol):
    """A mask kind: a module with these three names.

    `visible` defines the meaning.  `band` gives the part of it that moves along with the
    query: compiled kernels skip whatever lies outside the band that all kinds share.
    """

    NAME: str

    def band(self, spec: CallSpec) -> Band: ...
    def visible(self, problem: Problem) -> np.ndarray | None: ...
