"""What the tests run: every implementation, and of ``cython`` every instruction set."""

from __future__ import annotations

import os
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from strategies import DTYPES

import fastattn
from fastattn.implementations import load

_SETUP = runpy.run_path(str(Path(__file__).parent.parent / "setup.py"), run_name="setup_table")
KNOWN_ISAS = tuple(row.name for row in reversed(_SETUP["ISAS"]))  # the most general first
# Exact models of instructions, in builds for tests.  Where the instructions are, every test runs
# with them; test_amx.py and test_pairs.py compare the two, and only a thorough run repeats all
# tests for the model.
MODELS = {"amx_model": "amx", "avx512_bf16_model": "avx512_bf16"}
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"

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

    @property
    def tiles(self) -> bool:
        """Whether it multiplies in parts and weighs in powers of two.

        Its weights refer to a whole power of two at or above the largest weight, and one rounded
        constant makes exponents of scores.  So the weight of a single key is not exactly 1 in
        float32, and the log-sum-exp is a sum of two terms that may cancel.
        """
        return self.isa in ("amx", "amx_model")

    def serves(self, dtype: np.dtype) -> bool:
        """Whether it has a kernel for a data type."""
        kernels = fastattn.machine().kernels.get("forward", {})
        return self.isa is None or self.isa in kernels.get(np.dtype(dtype).name, (self.isa,))

    def require(self, dtype: np.dtype, *, drawn: bool = True) -> None:
        """Skip the test if it has no kernel for a data type; just the case if that is `drawn`."""
        if not self.serves(dtype):
            if drawn and hypothesis.currently_in_test_context():
                hypothesis.reject()
            pytest.skip(f"{self.name} has no kernel for {np.dtype(dtype).name}")

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
        if isinstance(q, np.ndarray):
            self.require(q.dtype)
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
        models = [
            model
            for model, isa in MODELS.items()
            if model in machine.isas and (THOROUGH or isa not in machine.isas)
        ]
        for isa in (*KNOWN_ISAS, *models):
            why = missing or machine.missing_isas.get(isa)
            if why is None and isa not in machine.isas:
                why = "this build has no such instruction set"
            found.append(Target(impl, isa, why))
    return tuple(found)


TARGETS = _targets()
RUNNABLE = tuple(target for target in TARGETS if target.missing is None)
