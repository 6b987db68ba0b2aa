"""Every environment variable of fastattn, read here and nowhere else.

=======================  ====================================================
``FASTATTN_ISA``         instruction set of the ``cython`` implementation
                         where `Config.isa` is not given: a name from
                         ``fastattn.machine().isas``, as there
``FASTATTN_NUM_THREADS`` thread count where `Config.threads` is not given, and
                         the most that wisdom may choose
``FASTATTN_THREADING``   threads of the ``cython`` implementation: ``pool``,
                         its own (the default), or ``openmp``
``FASTATTN_WISDOM``      ``off``: remembered configurations are not looked
                         up; ``on`` or unset: they are
``FASTATTN_WISDOM_DIR``  folder that holds them, in place of ``tuning`` in
                         the user's cache folder for fastattn
=======================  ====================================================

They are read each time a call is planned, and plans are cached: set them before
the first call.
"""

from __future__ import annotations

import os

from fastattn._config import MOST_THREADS
from fastattn._errors import ConfigError

__all__ = ["forced_isa", "forced_threading", "forced_threads", "wisdom_folder", "wisdom_is_on"]


def forced_isa() -> str | None:
    """Name in ``FASTATTN_ISA``, or None where it is unset or empty."""
    return os.environ.get("FASTATTN_ISA") or None


def forced_threading() -> str | None:
    """Name in ``FASTATTN_THREADING``, or None where it is unset or empty."""
    return _choice("FASTATTN_THREADING", "pool", "openmp")


def forced_threads() -> int | None:
    """Thread count in ``FASTATTN_NUM_THREADS``, or None where it is unset or empty."""
    text = os.environ.get("FASTATTN_NUM_THREADS")
    if not text:
        return None
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= MOST_THREADS:
        raise ConfigError(
            "FASTATTN_NUM_THREADS",
            repr(text),
            f"a whole number from 1 to {MOST_THREADS}",
            "correct or unset the environment variable",
        )
    return count


def wisdom_folder() -> str | None:
    """Folder in ``FASTATTN_WISDOM_DIR``, or None where it is unset or empty.

    What a shell would make of ``~`` is done here: not everything that sets variables is one.
    """
    name = os.environ.get("FASTATTN_WISDOM_DIR")
    return os.path.expanduser(name) if name else None


def wisdom_is_on() -> bool:
    """Whether ``FASTATTN_WISDOM`` leaves look-up on."""
    return _choice("FASTATTN_WISDOM", "on", "off") != "off"


def _choice(name: str, first: str, second: str) -> str | None:
    """Value of a variable that has two; None where it is unset or empty."""
    text = os.environ.get(name) or None
    if text not in (first, second, None):
        raise ConfigError(name, repr(text), f"{first!r} or {second!r}", "correct or unset it")
    return text
