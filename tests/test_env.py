"""Environment variables, and what they decide."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from targets import RUNNABLE

import fastattn
from fastattn import ConfigError, FastattnError, UnavailableError, _env, _machine, _plan, _threads
from fastattn._shapes import spec_of
from fastattn._wisdom import keys
from fastattn.implementations import load


@pytest.fixture(autouse=True)
def _forget_plans() -> object:
    """Plans are remembered: forget them before and after each change of the environment."""
    _plan._plan.cache_clear()
    yield None
    _plan._plan.cache_clear()


def _large() -> tuple[np.ndarray, ...]:
    """A problem that pays for any number of threads; takes no memory until computed."""
    return tuple(np.broadcast_to(np.float32(1), (64, 8, 512, 64)) for _ in range(3))


def test_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset and empty are the same."""
    for text in (None, ""):
        for name in ("FASTATTN_ISA", "FASTATTN_NUM_THREADS"):
            if text is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, text)
        assert _env.forced_isa() is None
        assert _env.forced_threads() is None


def test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read anew at each call."""
    monkeypatch.setenv("FASTATTN_ISA", "baseline")
    monkeypatch.setenv("FASTATTN_NUM_THREADS", " 3 ")
    assert _env.forced_isa() == "baseline"
    assert _env.forced_threads() == 3


def test_more_cpus_than_threads_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "usable_cpus", lambda: 2000)
    assert _threads.wanted_threads(None, 10**12, 1)[0] == 1024


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", " ", "0x2", "1025"])
def test_bad_thread_count(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The message names the variable."""
    monkeypatch.setenv("FASTATTN_NUM_THREADS", text)
    with pytest.raises(ConfigError, match="FASTATTN_NUM_THREADS.*accepted.*Fix"):
        _env.forced_threads()


def test_threads_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `Config.threads` is not given; a bad count refuses the call."""
    for name in {target.impl for target in RUNNABLE if "threads" in load(target.impl).TUNABLES}:
        monkeypatch.setenv("FASTATTN_NUM_THREADS", "1")
        _plan._plan.cache_clear()
        explained = fastattn.explain(*_large(), impl=name)
        assert explained.config.threads == 1
        assert "FASTATTN_NUM_THREADS" in explained.reasons["threads"]
        given = fastattn.explain(*_large(), impl=name, config=fastattn.Config(threads=2))
        assert given.config.threads == 2
        monkeypatch.setenv("FASTATTN_NUM_THREADS", "none")
        _plan._plan.cache_clear()
        with pytest.raises(ConfigError, match="FASTATTN_NUM_THREADS"):
            fastattn.explain(*_large(), impl=name)


def test_threading_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two names; OpenMP only in a build that has it."""
    monkeypatch.delenv("FASTATTN_THREADING", raising=False)
    assert _threads.threading_backend() == ("pool", "the default")
    monkeypatch.setenv("FASTATTN_THREADING", "pool")
    assert _threads.threading_backend() == ("pool", "FASTATTN_THREADING")
    monkeypatch.setenv("FASTATTN_THREADING", "tbb")
    with pytest.raises(ConfigError, match="FASTATTN_THREADING.*'tbb'.*'pool' or 'openmp'.*Fix"):
        _threads.threading_backend()
    monkeypatch.setenv("FASTATTN_THREADING", "openmp")
    without = SimpleNamespace(OPENMP=False)
    monkeypatch.setattr(_threads, "native", lambda: (without, None))
    with pytest.raises(UnavailableError, match="FASTATTN_THREADING.*no OpenMP.*rebuild"):
        _threads.threading_backend()


def test_threading_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several threads of the extension share a call."""
    binding, _ = _machine.native()
    if binding is None:
        pytest.skip("cython: the extension is not built")
    for name in ("pool", "openmp") if binding.OPENMP else ("pool",):
        monkeypatch.setenv("FASTATTN_THREADING", name)
        _plan._plan.cache_clear()
        for threads in (1, 2):
            config = fastattn.Config(threads=threads)
            explained = fastattn.explain(*_large(), impl="cython", config=config)
            shown = rf"threading +{name} +\(FASTATTN_THREADING\)"
            assert bool(re.search(shown, str(explained))) == (threads == 2)


def test_isa_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `Config.isa` is not given; a name that cannot run here refuses the call."""
    for target in RUNNABLE:
        if target.isa is None or not target.serves(np.dtype(np.float32)):
            continue
        monkeypatch.setenv("FASTATTN_ISA", target.isa)
        _plan._plan.cache_clear()
        explained = fastattn.explain(*_large(), impl="cython")
        assert explained.config.isa == target.isa
        assert "FASTATTN_ISA" in explained.reasons["isa"]
        best = fastattn.machine().isas[0]
        given = fastattn.explain(*_large(), impl="cython", config=fastattn.Config(isa=best))
        assert given.config.isa == best
        monkeypatch.setenv("FASTATTN_ISA", "abacus")
        _plan._plan.cache_clear()
        with pytest.raises(FastattnError, match="FASTATTN_ISA.*abacus"):
            fastattn.explain(*_large(), impl="cython")


@pytest.mark.skipif(not fastattn.machine().isas, reason="cython: not built")
@pytest.mark.parametrize("origin", ["Config.isa", "FASTATTN_ISA"])
def test_a_type_without_kernels_in_the_named_set(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    """Each name of `machine().isas` can be asked for any call: the default set has what it lacks.

    Where it decides nothing, it does not narrow what wisdom may choose.
    """
    q = np.random.default_rng(1).standard_normal((3, 2, 70, 33))
    here = fastattn.machine()
    default = fastattn.explain(*q, impl="cython").config.isa
    for isa in here.isas:
        config = fastattn.Config(isa=isa) if origin == "Config.isa" else None
        if config is None:
            monkeypatch.setenv("FASTATTN_ISA", isa)
            _plan._plan.cache_clear()
        explained = fastattn.explain(*q, impl="cython", config=config)
        has = isa in here.kernels["forward"]["float64"]
        assert explained.config.isa == (isa if has else default)
        assert (f"{isa} ({origin}) has no kernel" in explained.reasons["isa"]) != has
        got = fastattn.attention(*q, impl="cython", config=config)
        np.testing.assert_allclose(got, fastattn.attention(*q, impl="numpy"), atol=1e-14)
        limit = isa if has and config is None else None
        assert keys.limits(spec_of("1,2,2,70,70,33", "float64"))[1] == limit
