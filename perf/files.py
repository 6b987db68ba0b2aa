"""Files that are whole or absent, and what to say of those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path


class FileError(ValueError):
    """A file that cannot be used; the message names it."""


class Reading:
    """While a file is read and taken apart: whatever is wrong with it becomes a FileError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        faults = (OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError)
        if isinstance(error, (*faults, RecursionError)) and not isinstance(error, FileError):
            raise FileError(
                f"{self._path} cannot be used: {type(error).__name__}: {error}. "
                "Fix: restore it, or remove it and measure again."
            ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file, and make its folder if there is none.

    An interruption leaves the old file or the new one.  A pipe or a device is written to, and a
    link's target is replaced, not the link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
        return
    path = path.resolve()
    temporary = path.with_name(f".{os.urandom(8).hex()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
