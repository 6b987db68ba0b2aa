"""What the tests run: every implementation, and of ``cython`` every instruction set."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategies import DTYPES

import fastattn
from fastattn.implementations import load

_SETUP = runpy.run_path(str(Path(__file__).parent.parent / "setup.py"), run_name="setup_table")
KNOWN_ISAS = tuple(row.name for row in reversed(_SETUP["ISAS"]))  # the most general first

# What a test is repeated for.
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
blocks = pytest.mark.parametrize(
    "tunables",
    [{}, {"block_q": 5, "block_k": 7, "threads": 2}],
    ids=["default_blocks", "tiny_blocks"],
)


@dataclass(frozen=True)
class Target:
    """An implementation, for ``cython`` at one instruction set."""

    impl: str
    isa: str | None
    missing: str | None  # why it cannot run here

    @property
    def name(self) -> str:
        """As a report shows it."""
        return self.impl if self.isa is None else f"{self.impl}[{self.isa}]"

    @property
    def tiled(self) -> bool:
        """Whether it holds no Lq x Lk matrix, and keeps its rows apart bit by bit."""
        return self.impl != "numpy"

    def config(self, **tunables: int) -> fastattn.Config:
        """`tunables`, less those it does not have, at its instruction set."""
        fields: dict[str, Any] = {
            name: value for name, value in tunables.items() if name in load(self.impl).TUNABLES
        }
        return fastattn.Config(**fields, isa=self.isa)

    def attention(
        self, *arrays: Any, tunables: dict[str, int] | None = None, **arguments: Any
    ) -> Any:
        """`fastattn.attention` on this target; skips the test if it has no such kernel."""
        q = arrays[0] if arrays else arguments["q"]
        if self.isa is not None and isinstance(q, np.ndarray):
            name = q.dtype.name
            if self.isa not in fastattn.machine().kernels["forward"].get(name, (self.isa,)):
                pytest.skip(f"{self.name} has no kernel for {name}")
        config = self.config(**(tunables or {}))
        return fastattn.attention(*arrays, impl=self.impl, config=config, **arguments)

    def both(self, *arrays: Any, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        """Result and log-sum-exp on this target."""
        return self.attention(*arrays, return_lse=True, **arguments)

    def parameter(self) -> Any:
        """This target as a pytest parameter: skipped by name where it cannot run."""
        marks = [pytest.mark.skip(reason=f"{self.name}: {self.missing}")] if self.missing else []
        return pytest.param(self, id=self.name, marks=marks)


def _targets() -> tuple[Target, ...]:
    machine = fastattn.machine()
    found = []
    for impl, missing in reversed(fastattn.implementations().items()):
        if impl != "cython":
            found.append(Target(impl, None, missing))
            continue
        for isa in KNOWN_ISAS:
            why = missing or machine.missing_isas.get(isa)
            if why is None and isa not in machine.isas:
                why = "this build has no such instruction set"
            found.append(Target(impl, isa, why))
    return tuple(found)


TARGETS = _targets()
RUNNABLE = tuple(target for target in TARGETS if target.missing is None)
