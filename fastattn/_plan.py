"""`plan`: which implementation computes a call, with which configuration, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from fastattn._config import Config
from fastattn._errors import ArgumentTypeError, ConfigError, UnavailableError, format_error
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._wisdom import Remembered, lookup
from fastattn._wisdom.store import clear_when_changed
from fastattn.implementations import REGISTRY, Implementation, load, refuse_name

__all__ = ["Explanation", "Plan", "explain_plan", "plan"]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A decision: the implementation, its full configuration, the reasons, and how to run it.

    `reasons` has a sentence for ``impl`` and for each field of `config` that is set; `run`
    computes any problem of the plan's spec.
    """

    implementation: Implementation
    config: Config
    reasons: dict[str, str]
    run: Callable[[Problem], None]


def plan(problem: Problem, impl: str, config: Config | None) -> Plan:
    """Decide how to compute `problem`.

    Each combination of spec, `impl` and `config` is planned once; the plan is then cached.

    Raises
    ------
    FastattnError
        `impl` or `config` cannot be honoured on this machine.
    """
    if config is not None and not isinstance(config, Config):
        raise ArgumentTypeError(
            format_error(
                "config", repr(config), "a fastattn.Config or None", "write config=Config(...)"
            )
        )
    if not isinstance(impl, str):
        refuse_name(impl)
    return _plan(problem.spec, impl, config)


@functools.lru_cache(maxsize=4096)
def _plan(spec: CallSpec, impl: str, config: Config | None) -> Plan:
    wanted = config or Config()
    found = None
    if impl == "auto":
        found = _remembered(spec, impl, wanted)
        if found is None:
            implementation, why = _preferred(wanted)
        else:
            implementation, why = load(found.impl), f"auto: {found.why}"
    else:
        implementation, why = load(impl), "asked for"
        if (reason := implementation.missing()) is not None:
            raise UnavailableError(
                format_error(
                    "impl",
                    repr(impl),
                    "an implementation that fastattn.implementations() shows as usable",
                    f"impl='auto', or see to this: {reason}",
                )
            )
        found = _remembered(spec, impl, wanted)
    given = wanted.given()
    if foreign := sorted(set(given) - implementation.TUNABLES):
        raise ConfigError(
            format_error(
                f"Config.{foreign[0]}",
                f"{given[foreign[0]]!r} for impl={implementation.NAME!r}",
                f"fields that it has: {sorted(implementation.TUNABLES) or 'none'}",
                "leave the field out, or choose another implementation"
                + (
                    "; NumPy's threads are BLAS's: limit them with the package threadpoolctl"
                    if implementation.NAME == "numpy" and foreign[0] == "threads"
                    else ""
                ),
            )
        )
    known = dict.fromkeys(given, "asked for")
    if found is not None:
        wanted, known = found.config, dict.fromkeys(found.config.given(), found.why)
    settled, reasons = implementation.configure(spec, wanted)
    run = implementation.prepare(spec, settled)
    return Plan(implementation, settled, {"impl": why, **reasons, **known}, run)


clear_when_changed(_plan.cache_clear)


def _remembered(spec: CallSpec, impl: str, config: Config) -> Remembered | None:
    """What wisdom says; it is not asked if `config` sets a field or is deterministic."""
    return None if config.given() or config.deterministic else lookup(spec, impl)


def _preferred(config: Config) -> tuple[Implementation, str]:
    """First implementation that can run and has every field that `config` sets, and why."""
    passed_over = []
    for name in REGISTRY:
        implementation = load(name)
        if (reason := implementation.missing()) is not None:
            _report_fallback(name, reason)
            passed_over.append(f"{name} cannot run here ({reason})")
        elif foreign := sorted(set(config.given()) - implementation.TUNABLES):
            passed_over.append(f"{name} has no Config.{foreign[0]}")
        else:
            why = "; ".join(passed_over) or "the first choice"
            return implementation, f"auto: {why}"
    raise ConfigError(
        format_error(
            "config",
            repr(config),
            f"fields that an implementation which runs here has: {'; '.join(passed_over)}",
            "leave the field out, or see `fastattn info`",
        )
    )


@functools.cache
def _report_fallback(name: str, reason: str) -> None:
    """Log, once per process, that a preferred implementation is passed over."""
    import logging  # `import fastattn` does not need it

    log = logging.getLogger("fastattn")
    log.addHandler(logging.NullHandler())
    log.warning("impl='auto' passes over %s: %s", name, reason)


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a call would be computed; its `str` is meant to be read.

    Attributes
    ----------
    impl : str
        Name of the implementation.
    config : Config
        Full configuration, including the instruction set.
    reasons : dict of str to str
        Why ``impl`` and each field of `config` that is set were chosen.
    masks : tuple of str
        What hides keys in this call.
    problem : str
        The call's axes and data type, in words.
    """

    impl: str
    config: Config
    reasons: dict[str, str]
    masks: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        rows = [("problem", self.problem, ""), ("impl", self.impl, self.reasons["impl"])]
        rows += [
            (name, str(value), self.reasons.get(name, ""))
            for name, value in self.config.given().items()
        ]
        rows.append(("masks", ", ".join(self.masks) or "none", ""))
        return "\n".join(
            f"{name:<8} {value}" + (f"  ({why})" if why else "") for name, value, why in rows
        )


def explain_plan(problem: Problem, impl: str, config: Config | None) -> Explanation:
    """Explanation of the plan for `problem`."""
    chosen, g = plan(problem, impl, config), problem.spec
    hides = []
    if problem.mask is not None:
        hides.append(f"dense {problem.mask.dtype}")
    if g.causal:
        hides.append("causal")
    if g.window is not None:
        hides.append(f"window {g.window}")
    if problem.lengths is not None:
        hides.append("kv_lengths")
    return Explanation(
        impl=chosen.implementation.NAME,
        config=chosen.config,
        reasons=dict(chosen.reasons),
        masks=tuple(hides),
        problem=str(g),
    )
