"""The logger ``fastattn``: silent unless the program listens."""

from __future__ import annotations

import functools

__all__ = ["warn_once"]


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning, once per process."""
    import logging  # `import fastattn` does not need it

    log = logging.getLogger("fastattn")
    log.addHandler(logging.NullHandler())
    log.warning("%s", text)
