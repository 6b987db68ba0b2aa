"""`Entry`: one remembered winner with all that it is valid for, to and from JSON.

Nothing that is read is trusted: whatever is wrong raises `Unfit`, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastattn._config import TUNABLES, Config
from fastattn._dtypes import DTYPES
from fastattn._errors import FastattnError
from fastattn._shapes import spec_of
from fastattn._spec import CallSpec
from fastattn._wisdom import keys
from fastattn._wisdom.keys import Key
from fastattn.implementations import REGISTRY, load, unsupported

__all__ = ["Entry", "Unfit", "document_of", "from_document", "parse", "problem_of", "unusable"]

_FORMAT, _VERSION = "fastattn wisdom entry", 1
_LARGEST = 2**62
_DATE = "%Y-%m-%dT%H:%M:%SZ"
_NULL = type(None)
_ENTRY = {
    "format": (str,),
    "version": (int,),
    "environment": (dict,),
    "key": (dict,),
    "problem": (dict,),
    "winner": (dict,),
    "evidence": (dict,),
    "date": (str,),
}
_ENVIRONMENT = {
    "system": (str,),
    "architecture": (str,),
    "cpu": (str,),
    "usable_cpus": (int,),
    "caches_bytes": (dict,),
    "isas": (list,),
    "tuning_abi": (int,),
    "fastattn": (str,),
    "extension": (str, _NULL),
    "numba": (str, _NULL),
}
_SIZES = ("batch", "heads_q", "heads_kv", "length_q", "length_k", "dim", "dim_v")
_PROBLEM = {
    "dtype": (str,),
    **dict.fromkeys(_SIZES, (int,)),
    "causal": (bool,),
    "window": (list, _NULL),
}
_WINNER = {"impl": (str,), "config": (dict,)}


class Unfit(Exception):
    """What was read is not an entry, or not the one that it should be."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One remembered winner.

    Attributes
    ----------
    environment : dict
        Machine and build that it was found on.
    key : Key
        Class of problems that it is valid for, and the limits that held.
    spec : CallSpec
        Problem that it was found on.
    impl : str
        Implementation that won.
    config : Config
        Its configuration.
    evidence : dict
        How it was found, as the tuner tells it.
    date : str
        When it was found, in UTC, as 2026-01-31T12:00:00Z.
    """

    environment: dict[str, Any]
    key: Key
    spec: CallSpec
    impl: str
    config: Config
    evidence: dict[str, Any]
    date: str

    @property
    def place(self) -> tuple[str, str]:
        """Names of its folder and its file in the store."""
        return keys.digest(self.environment), f"{keys.digest(self.key.document())}.json"

    @property
    def here(self) -> bool:
        """Whether it was found on a machine and build like this one."""
        return keys.digest(self.environment) == keys.here()

    @property
    def words(self) -> str:
        """The problem that it was found on."""
        g = self.spec
        window = "" if g.window is None else f" window {g.window}"
        return f"{g}{' causal' if g.causal else ''}{window}"

    @property
    def rank(self) -> tuple[str, float, str]:
        """Of two entries for the same key the greater stays: newer, closer bound, then by text."""
        bound = self.evidence.get("selection_bound")
        closeness = -bound if isinstance(bound, (int, float)) else -math.inf
        return self.date, closeness, keys.canonical(self.document())

    def document(self) -> dict[str, Any]:
        """The entry as it is written down."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "environment": self.environment,
            "key": self.key.document(),
            "problem": problem_of(self.spec),
            "winner": {"impl": self.impl, "config": self.config.explicit()},
            "evidence": self.evidence,
            "date": self.date,
        }


def problem_of(spec: CallSpec) -> dict[str, Any]:
    """What is written down of a problem; equal for problems that no configuration tells apart."""
    sizes = {name: getattr(spec, name) for name in _SIZES}
    window = None if spec.window is None else list(spec.window)
    return {
        "dtype": spec.dtype.name,
        **sizes,
        "causal": spec.causal,
        "window": window,
    }


def parse(data: bytes | str) -> Entry:
    """Entry in a JSON text.

    Raises
    ------
    Unfit
        It is not an entry.
    """
    return from_document(document_of(data))


def document_of(data: bytes | str) -> Any:
    """Value of a JSON text.

    Raises
    ------
    Unfit
        It is not an entry.
    """
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # deep nesting recurses
        raise Unfit(f"it is not JSON: {error}") from None


def from_document(document: Any) -> Entry:
    """Entry from what `Entry.document` gave, all checked except what this machine can run.

    Raises
    ------
    Unfit
        It is not an entry, or its parts contradict each other.
    """
    said = _typed(document, "entry", _ENTRY)
    try:
        keys.canonical(said)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unfit(f"it cannot be written as JSON: {error}") from None
    if (said["format"], said["version"]) != (_FORMAT, _VERSION):
        raise Unfit(f"it is of format {said['format']!r}, version {said['version']}")
    spec = _spec(said["problem"])
    entry = Entry(
        environment=_typed(said["environment"], "environment", _ENVIRONMENT),
        key=_key(said["key"], spec),
        spec=spec,
        **_winner(said["winner"]),
        evidence=said["evidence"],
        date=_date(said["date"]),
    )
    limits = entry.key
    if limits.asked not in ("auto", entry.impl):
        raise Unfit(f"its winner is {entry.impl}, where {limits.asked} was asked for")
    if (entry.config.threads or 1) > limits.threads:
        raise Unfit(f"its winner has more threads than its limit of {limits.threads}")
    if limits.isa is not None and entry.config.isa not in (None, limits.isa):
        raise Unfit(f"its winner is not of the instruction set {limits.isa}")
    return entry


def unusable(impl: str, config: Config, spec: CallSpec) -> str | None:
    """Why this machine cannot compute a problem in this way; None if it can."""
    implementation = load(impl)
    if (reason := unsupported(implementation, spec)) is not None:
        return reason
    try:
        implementation.configure(spec, config)
    except FastattnError as error:
        return str(error)
    return None


def _typed(value: Any, what: str, types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """`value`, if it has exactly these fields, of exactly these types: a bool is not an int."""
    if not isinstance(value, dict) or value.keys() != types.keys():
        raise Unfit(f"its {what} is not an object with the fields {', '.join(types)}")
    for name, accepted in types.items():
        if type(value[name]) not in accepted:
            raise Unfit(f"its {what} has {name} = {value[name]!r:.40}")
    return value


def _spec(value: Any) -> CallSpec:
    said = _typed(value, "problem", _PROBLEM)
    window = said["window"]
    reach = [] if window is None else [part for part in window if part is not None]
    sizes = [said[name] for name in _SIZES]
    if (
        said["dtype"] not in DTYPES
        or min(sizes) < 1
        or max(sizes) > _LARGEST
        or said["heads_q"] % said["heads_kv"]
        or (window is not None and len(window) != 2)
        or not all(type(part) is int and 0 <= part <= _LARGEST for part in reach)
    ):
        raise Unfit("its problem is not a valid one")
    try:
        return spec_of(
            sizes,
            said["dtype"],
            causal=said["causal"],
            window=None if window is None else (window[0], window[1]),
        )
    except FastattnError as error:
        raise Unfit(f"its problem is not a valid one: {error}") from None


def _key(value: dict[str, Any], spec: CallSpec) -> Key:
    asked, threads, isa = (value.get(name) for name in ("asked", "threads", "isa"))
    most = next(row.high for row in TUNABLES if row.name == "threads")
    if (
        asked not in ("auto", *REGISTRY)
        or type(threads) is not int
        or not 1 <= threads <= most
        or not (isa is None or type(isa) is str)
    ):
        raise Unfit("its key has no limits")
    key = keys.key_of(spec, asked, threads, isa)
    if keys.canonical(key.document()) != keys.canonical(value):
        raise Unfit("its key is not that of its problem")
    return key


def _winner(value: Any) -> dict[str, Any]:
    said = _typed(value, "winner", _WINNER)
    impl, config = said["impl"], said["config"]
    if impl not in REGISTRY:
        raise Unfit(f"its winner is {impl!r:.40}, which is no implementation")
    if foreign := sorted(config.keys() - load(impl).TUNABLES):
        raise Unfit(f"its winner {impl} has no Config.{foreign[0]:.40}")
    try:
        return {"impl": impl, "config": Config(**config)}
    except FastattnError as error:
        raise Unfit(f"its winner cannot be: {error}") from None


def _date(text: str) -> str:
    import datetime

    try:
        same = datetime.datetime.strptime(text, _DATE).strftime(_DATE) == text
    except ValueError:
        same = False
    if not same:
        raise Unfit(f"its date is {text!r:.40}")
    return text
