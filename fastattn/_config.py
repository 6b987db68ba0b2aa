"""`Config`, and the table of the parameters it can tune."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastattn._errors import ConfigError

__all__ = ["MOST_THREADS", "TUNABLES", "Config", "Tunable"]


class Tunable(NamedTuple):
    """One whole-number parameter: its name, its range and what it means."""

    name: str
    low: int
    high: int
    meaning: str


MOST_THREADS = 1_024
TUNABLES: tuple[Tunable, ...] = (
    Tunable("block_q", 1, 65_536, "query rows (of all heads that share a key head) per work item"),
    Tunable("block_k", 1, 65_536, "keys per step of the online softmax"),
    Tunable("keys_per_split", 1, 2**48, "keys per split; the splits' partial results are merged"),
    Tunable("threads", 1, MOST_THREADS, "threads that share the work items"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a call is computed.  Every field is optional, and none changes the meaning of a call.

    fastattn chooses the fields that are None.  Not every implementation has every field: "numba"
    has `block_q`, `block_k` and `threads`, "numpy" has none of these.

    Parameters
    ----------
    block_q : int, optional
        Query rows (of all heads that share a key head) per work item, 1 to 65,536.
    block_k : int, optional
        Keys per step of the online softmax, 1 to 65,536.  Sums are taken block by
        block, so a different `block_k` may change the last bits of a result.
    keys_per_split : int, optional
        Keys per split, 1 to 2**48.  If a call has more keys, the splits are computed
        separately, by several threads if there is too little other work for them, and their
        partial results are merged exactly (split-KV, as in Flash-Decoding).  Rounding, and so
        the last bits of a result, may change with `keys_per_split`.
    threads : int, optional
        Threads that share the work, 1 to 1,024.  The default is the number of CPUs
        usable under the process's affinity and cgroup limits, or fewer for a call that is
        too small for more threads to help.
    isa : str, optional
        Instruction set of the ``cython`` implementation, a name from
        ``fastattn.machine().isas``.  If it has no kernel for a call, as ``amx`` has none for
        float64, the default has (see ``fastattn.machine().kernels``).
    deterministic : bool, default False
        Ignore wisdom (`fastattn.wisdom`): fields that are None get fastattn's default values,
        so that the bits of a result do not depend on what was tuned.

    Raises
    ------
    ConfigError
        A field is out of range.  If the implementation of a call does not have a field
        that is set, the call raises the error.

    Examples
    --------
    >>> import fastattn
    >>> fastattn.Config(threads=2, block_k=128)
    Config(block_k=128, threads=2)
    """

    block_q: int | None = None
    block_k: int | None = None
    keys_per_split: int | None = None
    threads: int | None = None
    isa: str | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        for row in TUNABLES:
            value = getattr(self, row.name)
            if value is None:
                continue
            try:
                number = -1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
            except TypeError:
                number = -1
            if not row.low <= number <= row.high:
                raise ConfigError(
                    f"Config.{row.name}",
                    repr(value),
                    f"None or a whole number from {row.low} to {row.high}",
                    f"leave it out for the default ({row.meaning})",
                )
            object.__setattr__(self, row.name, number)
        if self.isa is not None and not isinstance(self.isa, str):
            raise ConfigError(
                "Config.isa",
                repr(self.isa),
                "None or a name",
                "take one of fastattn.machine().isas",
            )
        if not isinstance(self.deterministic, bool):
            raise ConfigError(
                "Config.deterministic",
                repr(self.deterministic),
                "True or False",
                "leave it out to let wisdom choose",
            )

    def __repr__(self) -> str:
        fields = self.explicit() | ({"deterministic": True} if self.deterministic else {})
        return f"Config({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def explicit(self) -> dict[str, int | str]:
        """The fields that the caller set, by name; `deterministic` is not among them."""
        values = {name: getattr(self, name) for name in (*(row.name for row in TUNABLES), "isa")}
        return {name: value for name, value in values.items() if value is not None}
