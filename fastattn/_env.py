"""Every environment variable of fastattn, read here and nowhere else.

=======================  ====================================================
``FASTATTN_ISA``         instruction set of the ``cython`` implementation
                         where `Config.isa` is not given: a name from
                         ``fastattn.machine().isas``
``FASTATTN_NUM_THREADS`` thread count where `Config.threads` is not given
=======================  ====================================================

They are read at each planning, and plans are remembered: set them before the
first call.
"""

from __future__ import annotations

import os

from fastattn._errors import ConfigError, teach

__all__ = ["forced_isa", "forced_threads"]


def forced_isa() -> str | None:
    """Name in ``FASTATTN_ISA``, or None where it is unset or empty."""
    return os.environ.get("FASTATTN_ISA") or None


def forced_threads() -> int | None:
    """Thread count in ``FASTATTN_NUM_THREADS``, or None where it is unset or empty."""
    text = os.environ.get("FASTATTN_NUM_THREADS")
    if not text:
        return None
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise ConfigError(
            teach(
                "FASTATTN_NUM_THREADS",
                repr(text),
                "a whole number from 1 up",
                "correct or unset the environment variable",
            )
        )
    return count
