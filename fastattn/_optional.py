"""Parts and packages that fastattn can do without, whatever is wrong with them."""

from __future__ import annotations

import importlib

__all__ = ["import_failure"]


def import_failure(*modules: str) -> str | None:
    """Import modules; the reason if one cannot be, be it absent, outdated or broken.

    MemoryError is raised: it may not last.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
    return None
