"""Implementations, one file each, and their registry.

An implementation is a module that describes itself (`Implementation`).  The order
of `REGISTRY` is the preference of ``impl="auto"``.  A module is imported on first use:
importing fastattn never imports Numba.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import NoReturn, Protocol, cast

from fastattn import masks
from fastattn._config import Config
from fastattn._errors import ArgumentError
from fastattn._problem import Problem
from fastattn._spec import CallSpec

__all__ = ["REGISTRY", "Implementation", "implementations", "load", "refuse_name", "unsupported"]

REGISTRY: dict[str, str] = {
    "cython": "fastattn.implementations.cython_",
    "numba": "fastattn.implementations.numba_",
    "numpy": "fastattn.implementations.numpy_",
}


class Implementation(Protocol):
    """What a module in this folder offers.

    `prepare` may assume that `missing` and `supports` returned None and that `config` came
    from `configure`; the spec of all three has no mask kind that `MASKS` lacks, since these are
    lowered to the dense mask before.  The function that `prepare` returns is kept with the plan
    and computes every call of that spec, also in several threads at once: it writes
    ``problem.out`` and ``problem.lse``, nothing else.
    """

    NAME: str
    SUMMARY: str
    TUNABLES: frozenset[str]  # fields of Config that it has
    MASKS: frozenset[str]  # names of the mask kinds that it reads itself

    def missing(self) -> str | None:
        """Why it cannot run on this machine; None if it can.  Imports nothing heavy."""

    def supports(self, spec: CallSpec) -> str | None:
        """Why it cannot compute such a call; None if it can."""

    def fingerprint(self) -> dict[str, str]:
        """Versions and builds that its timings depend on; wisdom of others is not used."""

    def configure(self, spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
        """Fill the open fields of `config`, and give the reason for each that was filled."""

    def prepare(self, spec: CallSpec, config: Config) -> Callable[[Problem], None]:
        """Return what computes a call; what does not depend on its arrays is done here, once."""


@functools.cache
def load(name: str) -> Implementation:
    """Implementation of that name, whether it can run here or not."""
    if name not in REGISTRY:
        refuse_name(name)
    return cast(Implementation, importlib.import_module(REGISTRY[name]))


def unsupported(implementation: Implementation, spec: CallSpec) -> str | None:
    """Why an implementation cannot compute such a call on this machine; None if it can."""
    if (reason := implementation.missing()) is not None:
        return reason
    lowered = masks.lowered_spec(spec, implementation.MASKS)
    if not implementation.MASKS.issuperset(lowered.masks):
        return f"it takes no mask of kind {', '.join(lowered.masks)}"
    return implementation.supports(lowered)


def refuse_name(name: object) -> NoReturn:
    """Refuse a name that is not an implementation's."""
    raise ArgumentError(
        "impl", repr(name), f"'auto' or one of {list(REGISTRY)}", "correct the name"
    )


def implementations() -> dict[str, str | None]:
    """Which implementations can run on this machine.

    Returns
    -------
    dict of str to str or None
        For each implementation, in the order in which ``impl="auto"`` prefers them: None if it
        can run, else the reason why it cannot.

    Examples
    --------
    >>> import fastattn
    >>> fastattn.implementations()["numpy"] is None
    True
    """
    return {name: load(name).missing() for name in REGISTRY}
