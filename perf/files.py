"""Files that are whole or absent, and what to say of those that cannot be used."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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


def check_writable(*paths: Path) -> None:
    """Refuse files that `write_whole` could not write, before there is anything to write.

    Raises
    ------
    FileError
    """
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            if path.exists() and not path.is_file():
                continue
            with tempfile.TemporaryFile(dir=_target(path).parent):
                pass
        except OSError as error:
            raise FileError(f"{path} cannot be written: {error}. Fix: name another file.") from None


def _target(path: Path) -> Path:
    """The file itself, which is replaced: a link to it stays."""
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


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
    path = _target(path)
    temporary = path.with_name(f".{os.urandom(8).hex()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_record(path: Path, version: int, fields: Mapping[str, Any]) -> None:
    """Write the fields of a record as JSON, with the version of their format."""
    write_whole(path, json.dumps({"format": version, **fields}, indent=1) + "\n")


def read_record(path: Path, version: int) -> dict[str, Any]:
    """Read what `write_record` wrote; ValueError if it is of another format."""
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (found := fields.pop("format")) != version:
        raise ValueError(f"it is of another format: {found!r}, not {version}")
    return fields
