"""Wisdom: winners of the tuner, remembered for a machine, a build and a class of problems.

``keys`` says what an entry is valid for, ``entry`` what it is, ``store`` where it lies; this
module looks entries up and remembers winners.  `fastattn.wisdom` is the public face.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastattn import _env
from fastattn._config import Config
from fastattn._errors import ConfigError, format_error
from fastattn._spec import CallSpec
from fastattn._wisdom import keys, store
from fastattn._wisdom.entry import Entry, Unfit, from_document, problem_of, unusable
from fastattn._wisdom.keys import Key
from fastattn.implementations import load

__all__ = ["Remembered", "lookup", "remember"]

_REMEDY = "`fastattn wisdom forget --damaged` removes it"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What wisdom says about a call.

    Attributes
    ----------
    impl : str
        Implementation to take.
    config : Config
        Fields that are known; the others are left to the implementation.
    origin : {"exact", "neighbour"}
        Whether it was found on a problem of the same bucket, or of a neighbouring one.
    why : str
        Where it comes from, as `explain` says it.
    """

    impl: str
    config: Config
    origin: Literal["exact", "neighbour"]
    why: str


def lookup(spec: CallSpec, impl: str) -> Remembered | None:
    """What wisdom says about a call; None if the shipped defaults are to decide.

    Parameters
    ----------
    spec : CallSpec
        The call.
    impl : str
        What the caller asked for, "auto" or an implementation.

    Notes
    -----
    Nothing that lies in the folder makes this raise: what is damaged is reported once, and
    passed over.
    """
    if not _env.wisdom_is_on() or not spec.multiply_adds:
        return None
    folder = store.folder()
    if not os.path.isdir(folder):
        return None
    found = _nearest(folder, keys.key_of(spec, impl, *keys.caps()))
    if found is None:
        return None
    entry, same = found
    config = _fitted(entry, spec)
    if (reason := unusable(entry.impl, config, spec)) is not None:
        path = os.path.join(folder, *entry.place)
        store.report(path, f"its winner cannot run here: {reason}", _REMEDY)
        return None
    if same:
        return Remembered(entry.impl, config, "exact", f"tuned here on {entry.words}")
    why = f"borrowed from a neighbour: tuned here on {entry.words}"
    return Remembered(entry.impl, config, "neighbour", why)


def remember(
    spec: CallSpec,
    impl: str,
    config: Config,
    evidence: Mapping[str, Any],
    *,
    asked: str = "auto",
) -> Path:
    """Remember a winner, in place of what was remembered for the same key.

    Parameters
    ----------
    spec : CallSpec
        Problem that it was found on.
    impl : str
        Implementation that won.
    config : Config
        The winner's fields that were searched.
    evidence : mapping
        How it was found, as values that JSON can hold.  Of two entries of the same date, the
        one with the smaller ``selection_bound`` survives a merge.
    asked : str, default "auto"
        "auto" if all implementations that run here were searched, else `impl`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        The entry could not be looked up again: the winner does not run here or exceeds a
        limit, the problem is empty, or `evidence` is not JSON.
    WisdomError
        The folder cannot be written.
    """
    entry = Entry(
        environment=keys.environment(),
        key=keys.key_of(spec, asked, *keys.caps()),
        spec=spec,
        impl=impl,
        config=config,
        evidence=dict(evidence),
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    try:
        from_document(entry.document())
        reason = unusable(impl, config, spec)
    except Unfit as unfit:
        reason = str(unfit)
    if reason is not None:
        raise ConfigError(
            format_error(
                "config",
                f"{config} of {impl} for {entry.words}",
                "a winner that can be looked up here again",
                f"see to this: {reason}",
            )
        )
    return Path(store.write(entry))


@functools.lru_cache(maxsize=4096)
def _nearest(folder: str, key: Key) -> tuple[Entry, bool] | None:
    """The nearest sound entry in `folder`, and whether its bucket is `key`'s own."""
    names = store.names(os.path.join(folder, keys.here()))
    if not names:
        return None
    for candidate, same in keys.candidates(key):
        name = f"{keys.digest(candidate.document())}.json"
        if name not in names:
            continue
        path = os.path.join(folder, keys.here(), name)
        try:
            entry = store.read(path)
        except FileNotFoundError:  # another process forgot it
            continue
        except Unfit as unfit:
            store.report(path, str(unfit), _REMEDY)
            continue
        if key.asked in ("auto", entry.impl):
            return replace(entry, evidence={}), same  # raw samples need not stay in memory
    return None


def _fitted(entry: Entry, spec: CallSpec) -> Config:
    """The winner's configuration; for a problem other than its own, only its special fields."""
    if problem_of(entry.spec) == problem_of(spec):
        return entry.config
    config = _special(entry)
    if config.keys_per_split is not None and config.keys_per_split >= entry.spec.length_k:
        return replace(config, keys_per_split=spec.length_k)  # one part stays one part
    return config


@functools.lru_cache(maxsize=4096)
def _special(entry: Entry) -> Config:
    """The winner's fields, less those that the defaults choose too: these follow the shape."""
    config = entry.config
    if unusable(entry.impl, config, entry.spec) is not None:
        return config
    configure = load(entry.impl).configure
    settled, _ = configure(entry.spec, config)
    for name in config.explicit():
        fields: dict[str, Any] = config.explicit()
        del fields[name]
        if configure(entry.spec, Config(**fields))[0] == settled:
            config = Config(**fields)
    return config


for _cached in (_nearest, _special):
    store.clear_when_changed(_cached.cache_clear)
