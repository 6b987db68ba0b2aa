"""Wisdom: what the tuner found, kept for later calls and carried between machines.

Winners are kept in the user's cache folder, one file each, and serve every call of their class on
a machine and build like the one that they were found on.  These functions show, carry and
forget them; ``fastattn wisdom`` does the same on a command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError, WisdomError
from fastattn._shapes import parse_shape, spec_of
from fastattn._wisdom import keys, store
from fastattn._wisdom.entry import Entry, InvalidEntry, describe, from_document, parse_json

__all__ = ["Entry", "MergeResult", "entries", "export", "forget", "import_", "merge", "show"]

_FORMAT, _VERSION = "fastattn wisdom", 2
_File: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What became of the entries that were read.

    Attributes
    ----------
    added : int
        Entries written, because there was none for the same key, or an older one.
    kept : int
        Entries not written, because there was one at least as new.
    refused : tuple of str
        Entries that were not valid, and why.
    """

    added: int
    kept: int
    refused: tuple[str, ...]


def entries() -> tuple[Entry, ...]:
    """All valid entries, including those of other machines and builds.

    Returns
    -------
    tuple of Entry
        In a stable order.

    Raises
    ------
    WisdomError
        The folder cannot be read.

    Examples
    --------
    >>> import fastattn
    >>> from fastattn import wisdom
    >>> here = [entry for entry in wisdom.entries() if entry.here]
    >>> all(entry.impl in fastattn.implementations() for entry in here)
    True
    """
    return tuple(entry for _, entry in store.entries() if isinstance(entry, Entry))


def show() -> str:
    """Describe what is remembered.

    Returns
    -------
    str
        The entries of this machine and build, and how many there are of others.

    Raises
    ------
    WisdomError
        The folder cannot be read.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> print(wisdom.show())  # doctest: +ELLIPSIS
    wisdom in ...
    ... of this machine and build, ... of others
    """
    found = list(store.entries())
    valid = [entry for _, entry in found if isinstance(entry, Entry)]
    here = [entry for entry in valid if entry.here]
    lines = [f"wisdom in {os.path.dirname(store.folder())}"]
    for entry in sorted(here, key=lambda e: (describe(e.spec), e.requested, e.location)):
        only = f", of {entry.requested} alone" if entry.requested != "auto" else ""
        isa = f" and {entry.isa}" if entry.isa else ""
        lines += [
            f"  {describe(entry.spec)}",
            f"    {entry.impl} {entry.config}{only}",
            f"    for at most {entry.threads} threads{isa}; found {entry.date}",
        ]
    damaged = ((path, error) for path, error in found if isinstance(error, InvalidEntry))
    lines += [f"  damaged: {path}: {error}" for path, error in damaged]
    lines.append(f"{len(here)} of this machine and build, {len(valid) - len(here)} of others")
    return "\n".join(lines)


def export(file: _File) -> int:
    """Write all valid entries to one file, for `import_` elsewhere.

    Parameters
    ----------
    file : path
        JSON; what the file held before is replaced in one step.

    Returns
    -------
    int
        How many entries were written.

    Raises
    ------
    WisdomError
        The folder cannot be read, or the file cannot be written.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> wisdom.export("wisdom.json") == len(wisdom.entries())
    True
    """
    found = entries()
    _write(file, found)
    return len(found)


def import_(file: _File) -> MergeResult:
    """Take in what `export` wrote.

    Each entry is checked.  Those of other machines and builds are kept apart: they can be
    exported again, but never serve a call here.  Of two entries for the same machine, build
    and class of problems the newer stays.

    Parameters
    ----------
    file : path
        What `export` or `merge` wrote.

    Returns
    -------
    MergeResult
        What became of the entries.

    Raises
    ------
    WisdomError
        The file is not an export, or the folder cannot be written.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> count = wisdom.export("wisdom.json")
    >>> wisdom.import_("wisdom.json") == wisdom.MergeResult(added=0, kept=count, refused=())
    True
    """
    return merge(file)


def merge(*files: _File, out: _File | None = None) -> MergeResult:
    """Join what several machines found.

    Of two entries for the same machine, build and class of problems the newer stays, so that
    the result is the same in whatever order and grouping files are merged.

    Parameters
    ----------
    *files : path
        What `export` or `merge` wrote.
    out : path, optional
        Where to write the result; None to take it into this machine's wisdom.

    Returns
    -------
    MergeResult
        What became of the entries.

    Raises
    ------
    WisdomError
        A file is not an export, or the result cannot be written.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> count = wisdom.export("a.json")
    >>> result = wisdom.merge("a.json", "a.json", out="both.json")
    >>> (result.added, result.kept) == (count, count)
    True
    """
    valid: list[Entry] = []
    refused = []
    for file in files:
        for number, document in enumerate(_read(file)):
            try:
                entry = from_document(document)
                reason = entry.refusal()
            except InvalidEntry as error:
                reason = str(error)
            if reason is None:
                valid.append(entry)
            else:
                refused.append(f"{os.fspath(file)}, entry {number}: {reason}")
    newest: dict[tuple[str, str], Entry] = {}
    for entry in sorted(valid, key=_age):
        newest[entry.location] = entry
    if out is None:
        added = sum(_take_in(entry) for entry in newest.values())
    else:
        _write(out, (newest[location] for location in sorted(newest)))
        added = len(newest)
    return MergeResult(added=added, kept=len(valid) - added, refused=tuple(refused))


def forget(
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    *,
    everywhere: bool = False,
    damaged: bool = False,
) -> int:
    """Remove entries: by default all of this machine and build.

    Parameters
    ----------
    shape : sequence of int, optional
        (B, Hq, Hkv, Lq, Lk, D), or with Dv too: only what is remembered for such a problem.
    dtype : str, optional
        Only what is remembered for that data type.
    everywhere : bool, default False
        Also remove those of other machines and builds.
    damaged : bool, default False
        Instead, remove files that hold no valid entry, or one whose winner cannot run here.

    Returns
    -------
    int
        How many files were removed.

    Raises
    ------
    ArgumentError
        `shape` or `dtype` is not valid.
    WisdomError
        A file cannot be removed.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> wisdom.forget((1, 8, 8, 7, 7, 7), "float64")
    0
    """
    size = None if shape is None else keys.size_of(spec_of(parse_shape(shape, least=1)))
    if dtype is not None and dtype not in DTYPES:
        raise ArgumentError("dtype", repr(dtype), ", ".join(DTYPES), "correct the name")

    def selected(entry: Entry | InvalidEntry) -> bool:
        if isinstance(entry, InvalidEntry) or damaged:
            return damaged and (isinstance(entry, InvalidEntry) or entry.refusal() is not None)
        return (
            (everywhere or entry.here)
            and dtype in (None, entry.spec.dtype.name)
            and (size is None or size == keys.size_of(entry.spec))
        )

    paths = [path for path, entry in store.entries() if selected(entry)]
    for path in paths:
        store.remove(path)
    store.remove_leftovers()
    return len(paths)


def _age(entry: Entry) -> tuple[str, str]:
    """Sorts by date, then by any fixed order."""
    return entry.date, keys.canonical(entry.document())


def _take_in(entry: Entry) -> bool:
    """Write an entry unless there is one at least as new."""
    try:
        known = store.read(os.path.join(store.folder(), *entry.location))
    except (FileNotFoundError, InvalidEntry):
        known = None
    if known is not None and _age(known) >= _age(entry):
        return False
    store.write(entry)
    return True


def _write(file: _File, found: Iterable[Entry]) -> None:
    documents = [entry.document() for entry in found]
    whole = {"format": _FORMAT, "version": _VERSION, "entries": documents}
    store.replace_file(os.fspath(file), keys.canonical(whole), "file")


def _read(file: _File) -> list[Any]:
    """The documents in an export."""
    reason = "it is not an export"
    try:
        with open(file, "rb") as stream:
            whole = parse_json(stream.read())
        if isinstance(whole, dict) and whole.keys() == {"format", "version", "entries"}:
            known = (whole["format"], whole["version"]) == (_FORMAT, _VERSION)
            if known and isinstance(whole["entries"], list):
                return whole["entries"]
    except OSError as error:
        reason = str(error.strerror)
    except InvalidEntry as error:
        reason = str(error)
    raise WisdomError(
        "file", f"{os.fspath(file)}: {reason}", "a file that export wrote", "export it again"
    )
