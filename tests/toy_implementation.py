"""An implementation for the tests: it declines some calls, and reads no mask but a dense one."""

from __future__ import annotations

from collections.abc import Callable

from fastattn._config import Config
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn.implementations import numpy_

NAME = "toy"
SUMMARY = "float32 without sinks"
TUNABLES = frozenset({"threads"})
MASKS = frozenset({"dense"})


def missing() -> str | None:
    """It runs anywhere."""
    return None


def supports(spec: CallSpec) -> str | None:
    """Why it declines a call."""
    if spec.has_sinks:
        return "no kernel with sinks"
    return None if spec.dtype.name == "float32" else f"no kernel for {spec.dtype.name}"


def fingerprint() -> dict[str, str]:
    """One version."""
    return {"toy": "1"}


def configure(spec: CallSpec, config: Config) -> tuple[Config, dict[str, str]]:
    """One thread."""
    return (config, {}) if config.threads else (Config(threads=1), {"threads": "one is enough"})


def prepare(spec: CallSpec, config: Config) -> Callable[[Problem], None]:
    """The definition, given nothing but a dense mask."""
    assert set(spec.masks) <= MASKS

    def run(problem: Problem) -> None:
        assert problem.spec is spec
        assert problem.lengths is None
        numpy_.run(problem)

    return run
