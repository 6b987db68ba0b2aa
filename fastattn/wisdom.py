"""Wisdom: the configurations that the tuner found, stored for later calls.

The winners are stored in the user's cache folder, one file each.  A winner is used by calls for
similar problems (those in the same bucket, or near it), with the same processor model and the same
builds of fastattn.  These functions show, export, import, merge and remove them; the command
``fastattn wisdom`` does the same.
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
    """Numbers of entries that were added, kept and refused by `import_` or `merge`.

    Attributes
    ----------
    added : int
        Entries written, because there was none with the same key, or only an older one.
    kept : int
        Entries not written, because there was one with the same key that was at least as new.
    refused : tuple of str
        A text for each entry that was not valid, with the reason.
    """

    added: int
    kept: int
    refused: tuple[str, ...]


def entries() -> tuple[Entry, ...]:
    """Return all valid entries, including those of other machines and builds.

    Returns
    -------
    tuple of Entry
        In a stable order.  `Entry` has the problem, the winner, when and where it was found, and
        `Entry.here`, whether it is of this machine and build.

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
    """Describe the stored configurations as text.

    Returns
    -------
    str
        The entries of this machine and build, files that are damaged, and how many entries there
        are of other machines and builds.

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
        JSON file to write.  An existing file is replaced in one step.

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
    """Add the entries of a file that `export` wrote.

    Each entry is checked.  Those of other machines and builds are stored too, so that they can be
    exported again, but no call on this machine uses them.  Of two entries with the same machine,
    build and bucket of problems the newer one is kept.

    Parameters
    ----------
    file : path
        File that `export` or `merge` wrote.

    Returns
    -------
    MergeResult
        How many entries were added, kept and refused.

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
    """Join the entries of several exported files.

    Of two entries with the same machine, build and bucket of problems the newer one is kept.
    Therefore the result does not depend on the order in which files are merged.

    Parameters
    ----------
    *files : path
        Files that `export` or `merge` wrote.
    out : path, optional
        File to write the result to.  With None, the entries are added to this user's wisdom.

    Returns
    -------
    MergeResult
        How many entries were added, kept and refused.

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
    """Remove entries, by default all of this machine and build.

    Parameters
    ----------
    shape : sequence of int, optional
        (B, Hq, Hkv, Lq, Lk, D), or (B, Hq, Hkv, Lq, Lk, D, Dv): remove only entries in the same
        bucket as this problem.
    dtype : str, optional
        Remove only entries for this data type.
    everywhere : bool, default False
        Also remove entries of other machines and builds.
    damaged : bool, default False
        Instead, remove files without a valid entry, or whose winner cannot run on this machine.

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
