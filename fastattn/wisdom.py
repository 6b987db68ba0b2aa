"""Wisdom: what the tuner found, kept for later calls and carried between machines.

Winners lie in the user's cache folder, one file each, and serve every call of their class on
a machine and build like the one that they were found on.  These functions show, carry and
forget them; ``fastattn wisdom`` does the same on a command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError, WisdomError, format_error
from fastattn._shapes import parse_shape, spec_of
from fastattn._wisdom import keys, store
from fastattn._wisdom.entry import Entry, Unfit, document_of, from_document, unusable

__all__ = ["Carried", "Entry", "entries", "export", "forget", "import_", "merge", "show"]

_FORMAT, _VERSION = "fastattn wisdom", 1
_File: TypeAlias = "str | os.PathLike[str]"
_Slot: TypeAlias = "tuple[str, str]"


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of the entries that were read.

    Attributes
    ----------
    added : int
        Entries written, because there was none for the same key, or a lesser one.
    kept : int
        Entries not written, because there was one at least as good.
    refused : tuple of str
        Entries that were not taken, and why.
    """

    added: int
    kept: int
    refused: tuple[str, ...]


def entries() -> tuple[Entry, ...]:
    """All sound entries, including those of other machines and builds.

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
    >>> from fastattn import wisdom
    >>> wisdom.entries()
    ()
    """
    return tuple(entry for _, entry in store.entries() if isinstance(entry, Entry))


def show() -> str:
    """Describe what is remembered, in words.

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
    >>> print(wisdom.show().splitlines()[-1])
    0 of this machine and build, 0 of others
    """
    found = list(store.entries())
    sound = [entry for _, entry in found if isinstance(entry, Entry)]
    here = sorted((e for e in sound if e.here), key=lambda e: (e.words, e.key.asked, e.place))
    lines = [f"wisdom in {os.path.dirname(store.folder())}"]
    for entry in here:
        asked = f", of {entry.key.asked} alone" if entry.key.asked != "auto" else ""
        isa = f" and {entry.key.isa}" if entry.key.isa else ""
        lines += [
            f"  {entry.words}",
            f"    {entry.impl} {entry.config}{asked}",
            f"    for at most {entry.key.threads} threads{isa}; found {entry.date}",
        ]
    lines += [f"  damaged: {path}: {unfit}" for path, unfit in found if isinstance(unfit, Unfit)]
    return "\n".join(
        [*lines, f"{len(here)} of this machine and build, {len(sound) - len(here)} of others"]
    )


def export(file: _File) -> int:
    """Write all sound entries to one file, for `import_` elsewhere.

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
    >>> wisdom.export("wisdom.json")
    0
    """
    found = entries()
    _write(file, found)
    return len(found)


def import_(file: _File) -> Carried:
    """Take in what `export` wrote.

    Each entry is checked.  Those of other machines and builds are kept apart: they can be
    exported again or serve the tuner as a start, but they never serve a call here.  Of two
    entries for the same machine, build and class of problems the newer stays, as in `merge`.

    Parameters
    ----------
    file : path
        What `export` or `merge` wrote.

    Returns
    -------
    Carried
        What became of the entries.

    Raises
    ------
    WisdomError
        The file is no export, or the folder cannot be written.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> _ = wisdom.export("wisdom.json")
    >>> wisdom.import_("wisdom.json")
    Carried(added=0, kept=0, refused=())
    """
    return merge(file)


def merge(*files: _File, out: _File | None = None) -> Carried:
    """Join what several machines or shards found.

    Of two entries for the same machine, build and class of problems the newer stays; if they
    have the same date, the one with the smaller ``selection_bound``.  So the result is the same
    in whatever order and grouping files are merged.

    Parameters
    ----------
    *files : path
        What `export` or `merge` wrote.
    out : path, optional
        Where to write the result; None to take it into this machine's wisdom.

    Returns
    -------
    Carried
        What became of the entries.

    Raises
    ------
    WisdomError
        A file is no export, or the result cannot be written.

    Examples
    --------
    >>> from fastattn import wisdom
    >>> _ = wisdom.export("a.json"), wisdom.export("b.json")
    >>> wisdom.merge("a.json", "b.json", out="both.json")
    Carried(added=0, kept=0, refused=())
    """
    read, refused = [], []
    for file in files:
        for where, entry in _read(file):
            if (reason := _why_refused(entry)) is None:
                assert isinstance(entry, Entry)
                read.append(entry)
            else:
                refused.append(f"{where}: {reason}")
    best = _best(read)
    if out is None:
        added = sum(_taken(entry) for entry in best)
    else:
        _write(out, best)
        added = len(best)
    return Carried(added=added, kept=len(read) - added, refused=tuple(refused))


def forget(
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    *,
    everywhere: bool = False,
    damaged: bool = False,
) -> int:
    """Remove entries: all of this machine and build, unless told otherwise.

    Parameters
    ----------
    shape : sequence of int, optional
        (B, Hq, Hkv, Lq, Lk, D), or with Dv too: only what is remembered for such a problem.
    dtype : str, optional
        Only what is remembered for that data type.
    everywhere : bool, default False
        Also remove those of other machines and builds.
    damaged : bool, default False
        Instead, remove files that hold no sound entry, or one whose winner cannot run here.

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
    >>> wisdom.forget((1, 8, 8, 2048, 2048, 64), "float32")
    0
    """
    size = None if shape is None else _size(shape)
    if dtype is not None and dtype not in DTYPES:
        raise ArgumentError(
            format_error("dtype", repr(dtype), ", ".join(DTYPES), "correct the name")
        )

    def meant(entry: Entry | Unfit) -> bool:
        if damaged or isinstance(entry, Unfit):
            return damaged and _why_refused(entry) is not None
        return (
            (everywhere or entry.here)
            and dtype in (None, entry.key.dtype)
            and (size is None or size == keys.size_of(entry.spec))
        )

    doomed = [path for path, entry in store.entries() if meant(entry)]
    for path in doomed:
        store.remove(path)
    store.remove_leftovers()
    return len(doomed)


def _why_refused(entry: Entry | Unfit) -> str | None:
    """Why an entry is not sound or, if of this machine and build, cannot run here; else None."""
    if isinstance(entry, Unfit):
        return str(entry)
    if not entry.here:
        return None
    reason = unusable(entry.impl, entry.config, entry.spec)
    return None if reason is None else f"its winner cannot run here: {reason}"


def _best(found: Iterable[Entry]) -> list[Entry]:
    """The entry of the greatest rank for each place, in a stable order."""
    best: dict[_Slot, Entry] = {}
    for entry in found:
        known = best.get(entry.place)
        if known is None or entry.rank > known.rank:
            best[entry.place] = entry
    return [best[place] for place in sorted(best)]


def _taken(entry: Entry) -> bool:
    """Write an entry unless what lies in its place is at least as good."""
    try:
        known = store.read(os.path.join(store.folder(), *entry.place))
    except (FileNotFoundError, Unfit):
        known = None
    if known is not None and known.rank >= entry.rank:
        return False
    store.write(entry)
    return True


def _write(file: _File, found: Iterable[Entry]) -> None:
    documents = [entry.document() for entry in found]
    whole = {"format": _FORMAT, "version": _VERSION, "entries": documents}
    store.replace_file(os.fspath(file), keys.canonical(whole), "file")


def _read(file: _File) -> list[tuple[str, Entry | Unfit]]:
    """What an export holds: where each entry stands, and what it is."""
    try:
        with open(file, "rb") as stream:
            document: Any = document_of(stream.read())
    except OSError as error:
        raise WisdomError(
            format_error(
                "file", f"{file}: {error.strerror}", "a file that export wrote", "see to it"
            )
        ) from error
    except Unfit as unfit:
        document = str(unfit)
    if (
        not isinstance(document, dict)
        or document.keys() != {"format", "version", "entries"}
        or (document["format"], document["version"]) != (_FORMAT, _VERSION)
        or not isinstance(document["entries"], list)
    ):
        raise WisdomError(
            format_error(
                "file", repr(os.fspath(file)), "a file that export wrote", "export it again"
            )
        )
    found: list[tuple[str, Entry | Unfit]] = []
    for number, said in enumerate(document["entries"]):
        where = f"{os.fspath(file)}, entry {number}"
        try:
            found.append((where, from_document(said)))
        except Unfit as unfit:
            found.append((where, unfit))
    return found


def _size(shape: Sequence[int]) -> dict[str, int]:
    """The part of a key that follows from a shape."""
    return keys.size_of(spec_of(parse_shape(shape, least=1)))
