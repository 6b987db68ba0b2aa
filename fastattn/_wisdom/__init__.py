"""Wisdom: winners of the tuner, remembered for a machine, a build and a bucket of problems.

``keys`` defines what an entry is valid for, ``entry`` what it holds, ``store`` where it is kept;
this module looks entries up and remembers winners.  `fastattn.wisdom` is the public interface.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastattn import _env
from fastattn._config import TUNABLES, Config
from fastattn._errors import ConfigError, FastattnError, WisdomError
from fastattn._log import warn_once
from fastattn._machine import refusal
from fastattn._spec import CallSpec
from fastattn._wisdom import keys, store
from fastattn._wisdom.entry import Entry, InvalidEntry, describe, from_document
from fastattn._wisdom.keys import Key
from fastattn.implementations import load, unsupported

__all__ = ["Remembered", "lookup", "remember"]

_FIX = "`fastattn wisdom forget --damaged` removes it"
_UNSPLIT = next(row.high for row in TUNABLES if row.name == "keys_per_split")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A winner that serves a call.

    Attributes
    ----------
    impl : str
        Implementation to use.
    config : Config
        Fields to set; the defaults choose the others.
    why : str
        Where it comes from, as `explain` shows it.
    """

    impl: str
    config: Config
    why: str


def lookup(spec: CallSpec, impl: str) -> Remembered | None:
    """Find a winner for a call; None if the shipped defaults are to decide.

    `impl` is "auto", or the implementation that the caller requested.  No file in the folder makes
    this raise: damaged ones are reported once and ignored.
    """
    if not _env.wisdom_is_on() or not spec.multiply_adds:
        return None
    try:
        folder = store.folder()
    except WisdomError as error:
        warn_once(str(error))
        return None
    if not os.path.isdir(folder):
        return None
    found = _nearest(folder, keys.key_of(spec, impl, *keys.limits(spec)))
    if found is None:
        return None
    entry, same_bucket = found
    if (reason := unsupported(load(entry.impl), spec)) is not None:
        path = os.path.join(folder, *entry.location)
        store.report(path, f"its winner cannot run here: {reason}", _FIX)
        return None
    if "isa" in load(entry.impl).TUNABLES and not _kernels_serve(entry, spec):
        return None
    why = f"tuned here on {describe(entry.spec)}"
    if not same_bucket:
        why = f"borrowed from the nearest bucket: {why}"
    return Remembered(entry.impl, entry.config, why)


def remember(
    spec: CallSpec,
    impl: str,
    config: Config,
    evidence: Mapping[str, Any],
    *,
    requested: str = "auto",
) -> Path:
    """Remember a winner, in place of what was remembered for the same key, and return the file.

    `spec` is the problem that it was found on; `requested` is "auto" if all implementations that
    run here were searched, else `impl`; `evidence` tells how it was found, as values that JSON can
    hold.  Only fields of `config` that change what the defaults choose are kept: the others follow
    the shape of each call that the entry serves.

    ConfigError if the entry could not be looked up again, because the winner does not run here or
    exceeds a limit, the problem is empty, or `evidence` is not JSON; WisdomError if the folder
    cannot be written.
    """
    threads, isa = keys.limits(spec)
    try:
        entry = Entry(
            environment=keys.environment(spec.dtype.name, spec.operation),
            spec=spec,
            requested=requested,
            threads=threads,
            isa=isa,
            impl=impl,
            config=_changed_fields(impl, spec, config, isa),
            evidence=dict(evidence),
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        from_document(entry.document())
        reason = entry.refusal()
    except (InvalidEntry, FastattnError) as error:
        reason = str(error)
    if reason is not None:
        raise ConfigError(
            "config",
            f"{config} of {impl} for {describe(spec)}: {reason}",
            "a winner that can be looked up here again",
            "tune this problem on this machine",
        )
    return Path(store.write(entry))


def _kernels_serve(entry: Entry, spec: CallSpec) -> bool:
    """Whether the kernels whose blocks these are also serve this call, and run here."""
    named = entry.config.isa or entry.isa
    tuned, isa = (named or _default_isa(each) for each in (entry.spec, spec))
    return tuned == isa and refusal(isa) is None


def _default_isa(spec: CallSpec) -> str:
    """The instruction set that serves a problem by default, where it is permitted."""
    from fastattn.implementations.cython_ import best_isa

    return best_isa(spec, ask=False)[0]


def _changed_fields(impl: str, spec: CallSpec, config: Config, forced: str | None) -> Config:
    """The fields without which the defaults would resolve to another configuration.

    The instruction set is one of them where a better one is only not permitted to this process.
    """
    configure = load(impl).configure
    resolved, _ = configure(spec, config)
    fields: dict[str, Any] = config.explicit()
    for name in config.explicit():
        fewer = {field: value for field, value in fields.items() if field != name}
        if configure(spec, Config(**fewer))[0] == resolved:
            fields = fewer
    if resolved.isa and resolved.isa != (forced or _default_isa(spec)):
        fields["isa"] = resolved.isa
    if fields.get("keys_per_split", 0) >= spec.length_k:
        fields["keys_per_split"] = _UNSPLIT  # also where there are more keys
    return Config(**fields)


@functools.lru_cache(maxsize=4096)
def _nearest(folder: str, key: Key) -> tuple[Entry, bool] | None:
    """The nearest valid entry in `folder`, and whether its bucket is `key`'s own."""
    folder = os.path.join(folder, keys.here(key.dtype, key.operation))
    names = store.names(folder)
    for candidate, same_bucket in keys.candidates(key) if names else ():
        name = f"{keys.digest(candidate)}.json"
        if name not in names:
            continue
        path = os.path.join(folder, name)
        try:
            entry = store.read(path)
        except FileNotFoundError:  # another process forgot it
            continue
        except InvalidEntry as error:
            store.report(path, str(error), _FIX)
            continue
        if key.requested in ("auto", entry.impl):
            return replace(entry, evidence={}), same_bucket  # raw samples need no memory
    return None


store.clear_when_changed(_nearest.cache_clear)
