"""What a mask kind offers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from fastattn._problem import Problem
from fastattn._spec import Band, CallSpec

__all__ = ["Kind", "OperandKind"]


class Kind(Protocol):
    """A mask kind: a module with these names.

    `visible` defines the meaning.  `band` bounds it by keys around the query's position:
    compiled kernels skip whatever lies outside the band that all kinds share.
    """

    NAME: str

    def label(self, spec: CallSpec) -> str | None:
        """Its text in an explanation; None if the call does not use it."""

    def band(self, spec: CallSpec) -> Band:
        """A band outside which it masks every key; `EVERYTHING` if there is none."""

    def visible(self, problem: Problem) -> np.ndarray | None:
        """Visible keys, bool, broadcast to (*batch, Hq, Lq, Lk); None if it masks nothing."""


class OperandKind(Kind, Protocol):
    """A mask kind with an operand of its own, in ``Problem.operands[NAME]``."""

    def check(self, value: Any, spec: CallSpec) -> Any:
        """The operand from what the caller passes; refuses it with a FastattnError."""
