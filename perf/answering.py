"""Helpers for processes that measure and answer line by line on standard output."""

from __future__ import annotations

import os
from typing import TextIO


def own_output() -> TextIO:
    """Reserve standard output for our answers; what libraries print goes to standard error."""
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def one_line(error: BaseException) -> str:
    """An error as one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
