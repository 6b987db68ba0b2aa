"""`plan`: which implementation computes a call, with which configuration, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from fastattn import masks
from fastattn._arithmetic import in_default_arithmetic
from fastattn._config import Config
from fastattn._errors import ArgumentTypeError, ConfigError, UnavailableError
from fastattn._log import warn_once
from fastattn._problem import Problem
from fastattn._spec import CallSpec
from fastattn._wisdom import Remembered, lookup
from fastattn._wisdom.store import clear_when_changed
from fastattn.implementations import REGISTRY, Implementation, load, refuse_name, unsupported

__all__ = ["Explanation", "Plan", "explain_plan", "plan", "plan_anew"]


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


def plan(spec: CallSpec, impl: str, config: Config | None) -> Plan:
    """Decide how to compute a call; FastattnError if `impl` or `config` cannot be honoured.

    Each combination of spec, `impl` and `config` is planned once; the plan is then cached.
    """
    if config is not None and not isinstance(config, Config):
        raise ArgumentTypeError(
            "config", repr(config), "a fastattn.Config or None", "write config=Config(...)"
        )
    if not isinstance(impl, str):
        refuse_name(impl)
    return _plan(spec, impl, config)


@functools.lru_cache(maxsize=4096)
def _plan(spec: CallSpec, impl: str, config: Config | None) -> Plan:
    return in_default_arithmetic(_decide, spec, impl, config)


def _decide(spec: CallSpec, impl: str, config: Config | None) -> Plan:
    requested = config or Config()
    if impl != "auto" and (reason := unsupported(load(impl), spec)) is not None:
        raise UnavailableError(
            "impl",
            repr(impl),
            "an implementation that can compute this call here",
            f"use impl='auto'; the reason is: {reason}",
        )
    found = _remembered(spec, impl, requested)
    if impl != "auto":
        implementation, why = load(impl), "requested"
    elif found is not None:
        implementation, why = load(found.impl), f"auto: {found.why}"
    else:
        implementation, why = _preferred(spec, requested)
    explicit = requested.explicit()
    if lacking := sorted(set(explicit) - implementation.TUNABLES):
        raise ConfigError(
            f"Config.{lacking[0]}",
            f"{explicit[lacking[0]]!r} for impl={implementation.NAME!r}",
            f"fields that it has: {sorted(implementation.TUNABLES) or 'none'}",
            "leave the field out, or choose another implementation"
            + (
                "; the threads of BLAS can be limited with the package threadpoolctl"
                if lacking[0] == "threads"
                else ""
            ),
        )
    known = dict.fromkeys(explicit, "requested")
    if found is not None:
        requested, known = found.config, dict.fromkeys(found.config.explicit(), found.why)
    lowered = masks.lowered_spec(spec, implementation.MASKS)
    resolved, reasons = implementation.configure(lowered, requested)
    run = implementation.prepare(lowered, resolved)
    if lowered is not spec:
        run = functools.partial(_run_lowered, run, implementation.MASKS)
    return Plan(implementation, resolved, {"impl": why, **known, **reasons}, run)


clear_when_changed(_plan.cache_clear)


def plan_anew(spec: CallSpec, config: Config | None) -> Plan:
    """Decide again, after a call has found that an implementation cannot run here."""
    _plan.cache_clear()
    return plan(spec, "auto", config)


def _run_lowered(run: Callable[[Problem], None], handled: frozenset[str], problem: Problem) -> None:
    run(masks.lowered(problem, handled))


def _remembered(spec: CallSpec, impl: str, config: Config) -> Remembered | None:
    """What wisdom says; it is not consulted if `config` sets a field or is deterministic."""
    return None if config.explicit() or config.deterministic else lookup(spec, impl)


def _preferred(spec: CallSpec, config: Config) -> tuple[Implementation, str]:
    """First implementation that computes the call and has `config`'s fields, and why."""
    skipped = []
    for name in REGISTRY:
        implementation = load(name)
        if (reason := implementation.missing()) is not None:
            warn_once(f"impl='auto' skips {name}: {reason}")
            skipped.append(f"{name} cannot run here ({reason})")
        elif (reason := unsupported(implementation, spec)) is not None:
            skipped.append(f"{name} does not compute this call ({reason})")
        elif lacking := sorted(set(config.explicit()) - implementation.TUNABLES):
            skipped.append(f"{name} has no Config.{lacking[0]}")
        else:
            why = "; ".join(skipped) or "the first choice"
            return implementation, f"auto: {why}"
    raise ConfigError(
        "config",
        repr(config),
        f"fields of an implementation that computes this call here: {'; '.join(skipped)}",
        "leave the field out, or see `fastattn info`",
    )


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a call would be computed; ``print`` shows it as text.

    Attributes
    ----------
    impl : str
        Name of the implementation.
    config : Config
        Full configuration.  Its `isa` names the kernel set that computes the call, if the
        implementation has several.
    reasons : dict of str to str
        Why implementation and configuration were chosen.  The keys are ``impl`` and the names of
        the fields of `config` that are set.  For a call on several threads of ``cython``, the key
        ``threading`` names the kind of threads, "pool" or "openmp", and why it was chosen.
    masks : tuple of str
        Arguments of the call that mask keys, such as "causal".
    problem : str
        The call's axes and data type.

    Examples
    --------
    >>> import numpy as np
    >>> import fastattn
    >>> x = np.zeros((64, 64), np.float32)
    >>> explained = fastattn.explain(x, x, x, causal=True, kv_lengths=40, impl="numpy")
    >>> explained.masks
    ('causal', 'kv_lengths')
    >>> print(explained)
    problem        B=1 Hq=1 Hkv=1 Lq=64 Lk=64 D=64 Dv=64 float32
    impl           numpy  (requested)
    masks          causal, kv_lengths
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
            for name, value in self.config.explicit().items()
        ]
        shown = {"impl", *self.config.explicit()}
        rows += [(name, what, "") for name, what in self.reasons.items() if name not in shown]
        rows.append(("masks", ", ".join(self.masks) or "none", ""))
        return "\n".join(
            f"{name:<14} {value}" + (f"  ({why})" if why else "") for name, value, why in rows
        )


def explain_plan(spec: CallSpec, impl: str, config: Config | None) -> Explanation:
    """Explanation of the plan for a call."""
    chosen = plan(spec, impl, config)
    return Explanation(
        impl=chosen.implementation.NAME,
        config=chosen.config,
        reasons=dict(chosen.reasons),
        masks=masks.labels(spec),
        problem=str(spec),
    )
