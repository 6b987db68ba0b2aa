"""`Entry`: one remembered winner and what it is valid for, to and from JSON.

Nothing that is read is trusted: an invalid entry raises `InvalidEntry`, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastattn._config import MOST_THREADS, Config
from fastattn._errors import FastattnError
from fastattn._shapes import Shape, parse_shape, spec_of
from fastattn._spec import CallSpec
from fastattn._wisdom import keys
from fastattn._wisdom.keys import Key
from fastattn.implementations import REGISTRY, load, unsupported
from fastattn.masks.window import sides

__all__ = ["Entry", "InvalidEntry", "describe", "from_document", "parse_json"]

_FORMAT, _VERSION = "fastattn wisdom entry", 2
_DATE = "%Y-%m-%dT%H:%M:%SZ"


class InvalidEntry(Exception):
    """What was read is not an entry, or belongs elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One remembered winner.

    Attributes
    ----------
    environment : dict
        Machine and builds on which it was found.
    spec : CallSpec
        Problem for which it was found.
    requested : str
        "auto" if all implementations were searched, else the name of the one that was.
    threads : int
        Largest number of threads that could be chosen.
    isa : str or None
        Instruction set in ``FASTATTN_ISA`` during the search; None if it was not set.
    impl : str
        Implementation that won.
    config : Config
        Fields in which its configuration differs from the default.
    evidence : dict
        How it was found, as the tuner reports it.
    date : str
        When it was found, in UTC, as 2026-01-31T12:00:00Z.
    """

    environment: dict[str, Any]
    spec: CallSpec
    requested: str
    threads: int
    isa: str | None
    impl: str
    config: Config
    evidence: dict[str, Any]
    date: str

    @property
    def key(self) -> Key:
        """Bucket of problems that it is valid for, and the limits that held."""
        return keys.key_of(self.spec, self.requested, self.threads, self.isa)

    @property
    def location(self) -> tuple[str, str]:
        """Names of its folder and its file in the store."""
        return keys.digest(self.environment), f"{keys.digest(self.key)}.json"

    @property
    def here(self) -> bool:
        """Whether it was found on a machine and build like this one."""
        return self.location[0] == keys.here(self.spec.dtype.name, self.spec.operation)

    def refusal(self) -> str | None:
        """Why the winner cannot run, if it is of this machine and build; None if it can."""
        if not self.here:
            return None
        reason = unsupported(load(self.impl), self.spec)
        return None if reason is None else f"its winner cannot run here: {reason}"

    def document(self) -> dict[str, Any]:
        """The entry as it is written down."""
        spec = self.spec
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "environment": self.environment,
            "problem": {
                "dtype": spec.dtype.name,
                "shape": [getattr(spec, name) for name in Shape._fields],
                "causal": spec.causal,
                "window": spec.window,
            },
            "limits": {"requested": self.requested, "threads": self.threads, "isa": self.isa},
            "winner": {"impl": self.impl, "config": self.config.explicit()},
            "evidence": self.evidence,
            "date": self.date,
        }


def describe(spec: CallSpec) -> str:
    """The problem's axes, data type, causal mask and window."""
    window = "" if spec.window is None else f" window {spec.window}"
    return f"{spec}{' causal' if spec.causal else ''}{window}"


def parse_json(data: bytes | str) -> Any:
    """Value of a JSON text; InvalidEntry if it is none."""
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # deep nesting recurses
        raise InvalidEntry(f"not JSON: {error}") from None


def from_document(document: Any) -> Entry:
    """Entry from what `Entry.document` gave; InvalidEntry if an entry would write anything else."""
    try:
        entry = _entry(document)
        exact = keys.canonical(entry.document()) == keys.canonical(document)
    except FastattnError as error:
        raise InvalidEntry(f"invalid field: {error}") from None
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidEntry(f"not an entry: {error!r:.200}") from None
    _require(exact, "not an entry: unexpected fields")
    return entry


def _entry(document: Any) -> Entry:
    import datetime

    _require(isinstance(document, dict), "not an object")
    written = document["format"], document["version"]
    _require(written == (_FORMAT, _VERSION), f"unknown format {written}")
    problem, winner, limits = document["problem"], document["winner"], document["limits"]
    threads, isa, requested = limits["threads"], limits["isa"], limits["requested"]
    impl, config, isas = winner["impl"], winner["config"], document["environment"]["isas"]
    _require(requested in ("auto", *REGISTRY), "invalid limits: requested")
    _require(type(threads) is int and 1 <= threads <= MOST_THREADS, "invalid limits: threads")
    _require(isa is None or isinstance(isa, str), "invalid limits: isa")
    _require(isinstance(document["evidence"], dict), "evidence is not an object")
    _require(impl in REGISTRY, f"unknown implementation {impl!r:.40}")
    _require(requested in ("auto", impl), f"its winner is {impl}, but {requested} was requested")
    lacking = sorted(config.keys() - load(impl).TUNABLES) if isinstance(config, dict) else ["?"]
    _require(not lacking, f"invalid winning configuration: {impl} has no Config.{lacking}")
    date = datetime.datetime.strptime(document["date"], _DATE)
    found = Entry(
        environment=document["environment"],
        spec=_spec(problem),
        requested=requested,
        threads=threads,
        isa=isa,
        impl=impl,
        config=Config(**config),
        evidence=document["evidence"],
        date=date.strftime(_DATE),
    )
    _require((found.config.threads or 1) <= threads, "its winner has more threads than its limit")
    chosen = found.config.isa
    _require(chosen in (None, isa or chosen), f"its winner's instruction set is not {isa}")
    _require(chosen is None or chosen in isas, f"its machine has no instruction set {chosen}")
    return found


def _spec(problem: Any) -> CallSpec:
    causal, window = problem["causal"], problem["window"]
    _require(isinstance(causal, bool), "invalid problem")
    return spec_of(
        parse_shape(problem["shape"], least=1),
        problem["dtype"],
        causal=causal,
        window=None if window is None else sides(window),
    )


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise InvalidEntry(reason)
