"""Which implementation computes a call, with which configuration, and why."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from targets import Target

import fastattn
from fastattn import Config, ConfigError, _plan, masks
from fastattn._log import warn_once
from fastattn.implementations import REGISTRY, load


def _arrays(length: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.ones((2, 4, length, 8), np.float32)
    return x, x[:, :2], x[:, :2]


def _fake(name: str, tunables: set[str], missing: str | None) -> Any:
    def run(problem: Any) -> None:
        problem.out[...] = len(name)

    return SimpleNamespace(
        NAME=name,
        SUMMARY="",
        TUNABLES=frozenset(tunables),
        MASKS=frozenset(kind.NAME for kind in masks.KINDS),
        missing=lambda: missing,
        supports=lambda spec: None,
        configure=lambda spec, config: (
            Config(**{"threads": 7, **config.explicit()}),
            {"threads": "lucky"},
        ),
        prepare=lambda spec, config: run,
    )


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> object:
    """A registry of three: one that cannot run, one with `threads`, one with `block_q` too."""
    modules = {
        "gone": _fake("gone", {"threads", "block_q", "isa"}, "no such metal"),
        "plain": _fake("plain", {"threads"}, None),
        "rich": _fake("rich", {"threads", "block_q"}, None),
    }
    monkeypatch.setattr(_plan, "REGISTRY", dict.fromkeys(modules, ""))
    monkeypatch.setattr(_plan, "load", modules.__getitem__)
    for cached in (_plan._plan, warn_once):
        cached.cache_clear()
    yield modules
    for cached in (_plan._plan, warn_once):
        cached.cache_clear()


def test_auto_takes_the_first_that_can_run(fakes: object, caplog: pytest.LogCaptureFixture) -> None:
    """What it passes over is logged, once, with the reason."""
    with caplog.at_level(logging.WARNING, logger="fastattn"):
        explained = fastattn.explain(*_arrays())
        fastattn.explain(*_arrays(7))
    assert explained.impl == "plain"
    assert explained.config == Config(threads=7)
    assert explained.reasons["impl"] == "auto: gone cannot run here (no such metal)"
    assert explained.reasons["threads"] == "lucky"
    assert [record.getMessage() for record in caplog.records] == [
        "impl='auto' skips gone: no such metal"
    ]


def test_auto_takes_one_that_has_the_fields(fakes: object) -> None:
    """A field that the first lacks is honoured by the next, and the reason says so."""
    explained = fastattn.explain(*_arrays(), config=Config(block_q=3))
    assert explained.impl == "rich"
    assert "plain has no Config.block_q" in explained.reasons["impl"]
    assert explained.reasons["block_q"] == "requested"
    assert explained.config == Config(block_q=3, threads=7)
    with pytest.raises(ConfigError, match="isa='x'.*plain has no Config.isa.*Fix"):
        fastattn.explain(*_arrays(), config=Config(isa="x"))


def test_attention_runs_what_explain_tells(fakes: object) -> None:
    """Both ask the same planner."""
    assert (fastattn.attention(*_arrays()) == len("plain")).all()
    assert (fastattn.attention(*_arrays(), config=Config(block_q=1)) == len("rich")).all()


def test_first_choice(fakes: Any) -> None:
    """Nothing passed over."""
    fakes["gone"].missing = lambda: None
    assert fastattn.explain(*_arrays()).reasons["impl"] == "auto: the first choice"


def test_a_plan_prepares_once(fakes: Any) -> None:
    """What runs a call is kept with the plan, and a new configuration is a new one."""
    prepared = []

    def prepare(spec: Any, config: Config) -> Any:
        prepared.append(config)
        return lambda problem: problem.out.fill(len(prepared))

    fakes["plain"].prepare = prepare
    for _ in range(3):
        assert (fastattn.attention(*_arrays()) == 1).all()
    assert (fastattn.attention(*_arrays(), config=Config(threads=3)) == 2).all()
    assert prepared == [Config(threads=7), Config(threads=3)]


def test_errors_inside_a_plan_are_not_taken_for_bad_arguments(
    fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TypeError of our own making is shown as it is."""

    def configure(spec: Any, config: Config) -> Any:
        raise TypeError("a bug")

    fakes["plain"].configure = configure
    with pytest.raises(TypeError, match="a bug") as caught:
        fastattn.explain(*_arrays())
    assert not isinstance(caught.value, fastattn.FastattnError)


def test_explain_computes_nothing(target: Target) -> None:
    """`out` is left as it is."""
    out = np.full((2, 4, 6, 8), 7, np.float32)
    fastattn.explain(*_arrays(), impl=target.impl, config=target.config(), out=out)
    assert (out == 7).all()


def test_explanation(target: Target) -> None:
    """Every field that is settled has a reason, and all of it is printed."""
    target.require(np.dtype(np.float32))
    explained = fastattn.explain(
        *_arrays(),
        impl=target.impl,
        config=target.config(threads=1),
        causal=True,
        window=(1, None),
        kv_lengths=3,
        mask=np.ones((6, 6), bool),
    )
    assert explained.impl == target.impl
    assert explained.config.isa == target.isa
    assert set(explained.reasons) == {"impl", *explained.config.explicit()}
    assert all(explained.reasons.values())
    assert explained.reasons["impl"] == "requested"
    assert explained.masks == ("dense bool", "causal", "window (1, None)", "kv_lengths")
    assert explained.problem == "B=2 Hq=4 Hkv=2 Lq=6 Lk=6 D=8 Dv=8 float32"
    text = str(explained)
    for name, value in explained.config.explicit().items():
        assert f"{name:<14} {value}" in text
        assert explained.reasons[name] in text
    assert explained.problem in text
    assert "dense bool, causal" in text


def test_explanation_without_masks() -> None:
    """Says that nothing is hidden."""
    assert str(fastattn.explain(*_arrays(), impl="numpy")).endswith("none")


def test_every_tunable_is_settled(target: Target) -> None:
    """A full configuration: each field of the implementation, in range, for odd shapes too."""
    tunables = load(target.impl).TUNABLES
    for q_shape, k_shape in (
        ((1, 1), (1, 1)),
        ((0, 3), (5, 3)),
        ((5, 3), (0, 3)),
        ((0, 2, 4, 3), (0, 1, 4, 3)),
        ((32, 1, 1025), (8, 4096, 1025)),
        ((1, 65_536, 8), (1, 65_536, 8)),
    ):
        q, k = (np.broadcast_to(np.float32(0), shape) for shape in (q_shape, k_shape))
        explained = fastattn.explain(q, k, k, impl=target.impl, config=target.config())
        assert set(explained.config.explicit()) == tunables


def test_threads_default_to_the_usable_cpus(tiled: Target) -> None:
    """Never more, and one where the work does not pay for two."""
    large = [np.broadcast_to(np.float32(0), (64, 8, 512, 64))] * 3
    usable = fastattn.machine().usable_cpus
    explained = fastattn.explain(*large, impl=tiled.impl, config=tiled.config())
    assert explained.config.threads == usable
    explained = fastattn.explain(*_arrays(1), impl=tiled.impl, config=tiled.config())
    assert explained.config.threads == 1


def test_implementations() -> None:
    """In order of preference; only numpy is sure to run; "auto" takes the first that can."""
    usable = fastattn.implementations()
    assert list(usable) == list(REGISTRY)
    assert usable["numpy"] is None
    auto = fastattn.explain(*_arrays()).impl
    assert auto == next(name for name, reason in usable.items() if reason is None)


def test_load_refuses_an_unknown_name() -> None:
    """And tells the known ones."""
    with pytest.raises(fastattn.ArgumentError, match=r"impl.*fortran") as caught:
        load("fortran")
    assert str(list(REGISTRY)) in str(caught.value)
