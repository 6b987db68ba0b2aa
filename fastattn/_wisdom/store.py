"""The files of wisdom: a folder for each machine and build, and in it a file for each key.

A file is written under a temporary name, moved to its own in one step, and never changed after
that: a reader finds it whole, old or new, whoever else writes and whenever a writer is killed.  So
there are no locks.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Iterator

from fastattn import _env
from fastattn._errors import WisdomError
from fastattn._log import warn_once
from fastattn._wisdom import keys
from fastattn._wisdom.entry import Entry, InvalidEntry, from_document, parse_json

__all__ = [
    "changed",
    "check_writable",
    "clear_when_changed",
    "entries",
    "folder",
    "names",
    "read",
    "remove",
    "remove_leftovers",
    "replace_file",
    "report",
    "write",
]

_VARIABLE = "FASTATTN_WISDOM_DIR"
_LAYOUT = "v2"
_MAX_BYTES = 64 * 1024 * 1024
_LEFTOVER = ".tmp"
_LEFTOVER_SECONDS = 3600  # no writer takes so long for an entry

_CLEARED: list[Callable[[], None]] = []


def clear_when_changed(cache_clear: Callable[[], None]) -> None:
    """Clear a cache that depends on wisdom whenever this process changes it, or forks."""
    _CLEARED.append(cache_clear)


def changed() -> None:
    """Clear the caches that depend on wisdom."""
    for cache_clear in _CLEARED:
        cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=changed)


def folder() -> str:
    """Folder of this layout, whether it exists or not.

    WisdomError if it lies in a home folder that nobody knows.
    """
    name = _env.wisdom_folder() or _user_folder()
    if name.startswith("~"):
        raise WisdomError(
            _VARIABLE, f"{name!r} without a home folder", "a path", "set it, or HOME, to a folder"
        )
    with _explained(name):
        return os.path.abspath(os.path.join(name, _LAYOUT))
    raise AssertionError


@functools.cache
def _user_folder() -> str:
    from platformdirs import user_cache_dir  # an import that may never be needed

    try:
        name = user_cache_dir("fastattn")
    except RuntimeError:  # no HOME, and no entry for the user
        name = ""
    return os.path.join(name, "tuning") if os.path.isabs(name) else "~"


def names(path: str) -> frozenset[str]:
    """Names of the files in a folder; none, which is reported, if they cannot be listed."""
    try:
        return frozenset(os.listdir(path))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        report(path, f"it cannot be listed: {error.strerror}", "check its permissions")
        return frozenset()


def entries() -> Iterator[tuple[str, Entry | InvalidEntry]]:
    """Path of each file that should be an entry, and what is in it, in a stable order.

    WisdomError if a folder cannot be listed.
    """
    root = folder()
    below = [os.path.join(root, name) for name in _listed(root)] if os.path.isdir(root) else []
    for environment in filter(os.path.isdir, below):
        for name in _listed(environment):
            path = os.path.join(environment, name)
            try:
                if name.endswith(".json"):
                    yield path, read(path)
            except FileNotFoundError:  # another process forgot it
                continue
            except InvalidEntry as error:
                yield path, error


def read(path: str) -> Entry:
    """Entry in a file of the store.

    FileNotFoundError if it is gone, InvalidEntry if it holds none or one that belongs elsewhere.
    """
    try:
        if not os.path.isfile(path):
            os.stat(path)
            raise InvalidEntry("it is not a file")  # opening a pipe would block
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidEntry(f"it cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise InvalidEntry(f"it is larger than {_MAX_BYTES} bytes")
    entry = from_document(parse_json(data))
    if entry.location != tuple(path.split(os.sep)[-2:]):
        raise InvalidEntry("it belongs to another machine, build or problem")
    return entry


def write(entry: Entry) -> str:
    """Write an entry, whatever was there before, and return the path; WisdomError if it fails."""
    path = os.path.join(folder(), *entry.location)
    with _explained(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    replace_file(path, keys.canonical(entry.document()))
    changed()
    return path


def check_writable(path: str, argument: str) -> None:
    """Refuse a file that `replace_file` could not write, before there is anything to write.

    Raises
    ------
    WisdomError
        As there.
    """
    import tempfile

    with _explained(path, argument):
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.path.exists(path) or os.path.isfile(path):
            with tempfile.TemporaryFile(dir=os.path.dirname(_target(path))):
                pass


def _target(path: str) -> str:
    """The file itself, which is replaced: a link to it stays."""
    found = os.path.realpath(path)
    if os.path.islink(found):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def replace_file(path: str, text: str, argument: str = _VARIABLE) -> None:
    """Write a file so that it is always whole: as it was before, or as it is now.

    If it cannot be written, the message of the WisdomError names `argument`.
    """
    with _explained(path, argument):
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device, to be kept
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
        path = _target(path)
        temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}{_LEFTOVER}")
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def remove(path: str) -> None:
    """Remove a file of the store, which may be gone already; WisdomError if it fails."""
    with _explained(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    changed()


def remove_leftovers() -> None:
    """Remove the temporary files of writers that were killed long ago."""
    for below, _, found in os.walk(folder()):
        for name in found:
            path = os.path.join(below, name)
            with contextlib.suppress(OSError):
                old = time.time() - os.stat(path).st_mtime > _LEFTOVER_SECONDS
                if name.startswith(".") and name.endswith(_LEFTOVER) and old:
                    os.unlink(path)


def report(path: str, reason: str, fix: str) -> None:
    """Log, once per process, that a file or folder is ignored."""
    warn_once(f"ignoring wisdom file {path}: {reason}.  Fix: {fix}")


def _listed(path: str) -> list[str]:
    with _explained(path):
        return sorted(os.listdir(path))


@contextlib.contextmanager
def _explained(path: str, argument: str = _VARIABLE) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise WisdomError(
            argument,
            f"{path}: {getattr(error, 'strerror', error)}",
            "a path that can be read and written",
            "check its permissions, or name another",
        ) from error
