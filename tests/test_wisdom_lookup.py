"""What wisdom says of a call, what plans make of it, and what they do not."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import remembered
from processes import run_python
from remembered import IMPL, SHAPE, WINNER, arrays, empty, spec

import fastattn
from fastattn import Config, ConfigError, _plan, _wisdom
from fastattn._wisdom import keys, store
from fastattn.implementations import load

DEFAULT_WHY = "auto: the first choice" if IMPL == "cython" else "auto: cython cannot run here"


def _explain(shape: tuple[int, ...] = SHAPE, **arguments: Any) -> fastattn.Explanation:
    return fastattn.explain(*empty(shape), align="bottom_right", **arguments)


def test_exact(wisdom_folder: Path) -> None:
    """`attention` runs what was remembered, and `explain` says of each field where it is from."""
    default = _explain()
    assert DEFAULT_WHY in default.reasons["impl"]
    remembered.remember()
    explained = _explain()
    why = "tuned here on B=1 Hq=4 Hkv=2 Lq=64 Lk=64 D=16 Dv=16 float32"
    assert explained.reasons["impl"] == f"auto: {why}"
    for name, value in WINNER.explicit().items():
        assert getattr(explained.config, name) == value
        assert explained.reasons[name] == why
    for name in set(default.config.explicit()) - set(WINNER.explicit()):
        assert explained.reasons[name] == default.reasons[name]
    assert explained.config != default.config
    assert why in str(explained)
    asked = _explain(impl=IMPL)
    assert asked.config == explained.config
    assert asked.reasons["impl"] == "requested"
    assert asked.reasons["block_q"] == why
    assert np.allclose(
        fastattn.attention(*arrays()), fastattn.attention(*arrays(), impl="numpy"), atol=1e-5
    )


def test_where_the_caller_says_more(wisdom_folder: Path) -> None:
    """A field, or `deterministic`, or an implementation without fields: the defaults alone."""
    default = _explain()
    remembered.remember()
    for config in (Config(deterministic=True), Config(threads=default.config.threads)):
        explained = _explain(config=config)
        assert explained.config == default.config
        assert "tuned" not in str(explained)
    assert _explain(config=Config()).config.block_q == WINNER.block_q
    assert _explain(impl="numpy").config == Config()
    other = _explain(causal=True)
    assert "tuned" not in str(other)


def test_deterministic_gives_the_bits_of_the_default(wisdom_folder: Path) -> None:
    """Whatever was tuned."""
    q, k, v = arrays((1, 2, 2, 32, 2048, 32, 32))
    default = fastattn.attention(q, k, v)
    remembered.remember((1, 2, 2, 32, 2048, 32, 32), Config(block_q=8, block_k=24, threads=1))
    tuned = fastattn.attention(q, k, v)
    assert (tuned != default).any()
    assert np.allclose(tuned, default, atol=1e-5)
    same = fastattn.attention(q, k, v, config=Config(deterministic=True))
    assert same.tobytes() == default.tobytes()


def test_nearest_bucket(wisdom_folder: Path) -> None:
    """Within an octave in each size, and `explain` says that it is borrowed."""
    remembered.remember()
    for shape, origin in (
        ((1, 4, 2, 60, 70, 16, 16), "exact"),
        ((1, 4, 2, 128, 64, 16, 16), "borrowed"),
        ((1, 4, 2, 32, 128, 16, 16), "borrowed"),
        ((2, 4, 2, 64, 64, 16, 16), "borrowed"),
        ((1, 4, 2, 256, 64, 16, 16), None),
        ((4, 4, 2, 64, 64, 16, 16), None),
        ((1, 4, 2, 64, 15, 16, 16), None),
        ((1, 4, 2, 64, 64, 17, 16), None),
        ((1, 4, 2, 64, 64, 16, 17), None),
        ((1, 4, 1, 64, 64, 16, 16), None),
    ):
        found = _wisdom.lookup(spec(shape), "auto")
        assert (found and ("borrowed" if "borrowed" in found.why else "exact")) == origin, shape
    explained = _explain((1, 4, 2, 128, 64, 16, 16))
    why = "borrowed from the nearest bucket: tuned here on B=1 Hq=4 Hkv=2 Lq=64 Lk=64"
    assert explained.reasons["impl"].startswith(f"auto: {why}")
    assert explained.reasons["block_q"].startswith(why)


def test_the_nearest_serves(wisdom_folder: Path) -> None:
    """The own bucket before any neighbour, then by distance."""
    for length, rows in ((128, 8), (90, 16)):
        remembered.remember((1, 4, 2, length, 64, 16, 16), Config(block_q=rows))
    found = _wisdom.lookup(spec(), "auto")
    assert found is not None
    assert (found.config.block_q, "borrowed" in found.why) == (16, True)
    remembered.remember((1, 4, 2, 64, 64, 16, 16), Config(block_q=24))
    found = _wisdom.lookup(spec(), "auto")
    assert found is not None
    assert (found.config.block_q, "borrowed" in found.why) == (24, False)


@pytest.mark.skipif(IMPL != "cython", reason="only cython has instruction sets")
def test_what_other_kernels_were_tuned_for_does_not_serve(
    wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the size of a call decides which kernels serve it; unless the winner names them."""

    def by_size(problem: Any) -> str:
        return "small" if problem.length_q < 64 else "large"

    remembered.remember()
    for length in (63, 64):  # of one bucket
        assert _wisdom.lookup(spec((1, 4, 2, length, 64, 16, 16)), "auto") is not None
    monkeypatch.setattr(_wisdom, "_default_isa", by_size)
    monkeypatch.setattr(_wisdom, "refusal", lambda isa: None)
    for length, found in ((63, False), (64, True), (80, True), (50, False)):
        served = _wisdom.lookup(spec((1, 4, 2, length, 64, 16, 16)), "auto")
        assert (served is not None) == found, length


def test_only_fields_that_differ_from_the_default_are_kept(wisdom_folder: Path) -> None:
    """The others follow the shape of each call."""
    default = _explain().config
    fields: dict[str, Any] = default.explicit() | {"block_q": 24}
    remembered.remember(config=Config(**fields))
    assert [entry.config for entry in fastattn.wisdom.entries()] == [Config(block_q=24)]
    assert _explain().config == Config(**fields)
    remembered.remember(config=default)
    assert [entry.config for entry in fastattn.wisdom.entries()] == [Config()]
    assert "tuned" in _explain().reasons["impl"]


@pytest.mark.skipif(IMPL != "cython", reason="only cython splits keys")
def test_one_part_stays_one_part(wisdom_folder: Path) -> None:
    """Where the winner did not split the keys, nor does the one that borrows from it."""
    many, more = (1, 2, 2, 1, 6000, 16, 16), (1, 2, 2, 1, 6500, 16, 16)
    assert _explain(many).config.keys_per_split < 6000
    remembered.remember(many, Config(keys_per_split=6000))
    assert _explain(many).config.keys_per_split == 6000
    assert _explain(more).config.keys_per_split == 6500
    remembered.remember(many, Config(keys_per_split=2000))
    assert _explain(more).config.keys_per_split == 2000


def test_one_implementation_was_asked_for(wisdom_folder: Path) -> None:
    """What was found for it alone comes first and serves nobody else."""
    remembered.remember(config=Config(block_q=16), requested=IMPL)
    assert "tuned" not in str(_explain())
    assert _explain(impl=IMPL).config.block_q == 16
    remembered.remember(config=Config(block_q=24))
    assert _explain().config.block_q == 24
    assert _explain(impl=IMPL).config.block_q == 16
    others = [n for n, reason in fastattn.implementations().items() if not reason and n != IMPL]
    for other in others:
        assert "tuned" not in str(_explain(impl=other))


def test_forced_by_the_environment(wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and instruction set keep their force: wisdom under other limits is other wisdom."""
    remembered.remember()
    monkeypatch.setenv("FASTATTN_NUM_THREADS", str(fastattn.machine().usable_cpus + 1))
    _plan._plan.cache_clear()
    assert "tuned" not in str(_explain())
    remembered.remember(config=Config(block_q=48))
    assert _explain().config.block_q == 48
    with pytest.raises(ConfigError, match="more threads than its limit"):
        remembered.remember(config=Config(threads=fastattn.machine().usable_cpus + 2))
    monkeypatch.delenv("FASTATTN_NUM_THREADS")
    first, *_, last = fastattn.machine().kernels.get("forward", {}).get("float32", ()) or [None] * 2
    if last is not None and last != first:
        _wisdom.remember(spec(), "cython", Config(isa=first, block_q=56), {})
        assert _explain(impl="cython").config.isa == first
        monkeypatch.setenv("FASTATTN_ISA", last)
        _plan._plan.cache_clear()
        explained = _explain(impl="cython")
        assert explained.config.isa == last
        assert "tuned" not in str(explained)
        with pytest.raises(ConfigError, match="instruction set"):
            _wisdom.remember(spec(), "cython", Config(isa="other"), {})


def test_off(wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not looked up; what is no switch is refused."""
    remembered.remember()
    for text, tuned in (("off", False), ("on", True), ("", True)):
        monkeypatch.setenv("FASTATTN_WISDOM", text)
        _plan._plan.cache_clear()
        assert ("tuned" in str(_explain())) == tuned
    monkeypatch.setenv("FASTATTN_WISDOM", "perhaps")
    _plan._plan.cache_clear()
    with pytest.raises(ConfigError, match="FASTATTN_WISDOM.*'on' or 'off'.*Fix"):
        _explain()


@pytest.mark.parametrize(
    ("shape", "impl", "config", "evidence", "requested", "reason"),
    [
        ((0, 4, 2, 64, 64, 16, 16), IMPL, WINNER, {}, "auto", "bucket|problem"),
        (SHAPE, "fortran", WINNER, {}, "auto", "fortran"),
        (SHAPE, "numpy", WINNER, {}, "auto", "numpy has no Config"),
        (SHAPE, IMPL, WINNER, {}, "numpy", "numpy was requested"),
        (SHAPE, IMPL, Config(threads=1024), {}, "auto", "more threads"),
        (SHAPE, IMPL, WINNER, {"x": float("nan")}, "auto", "not an entry"),
        (SHAPE, IMPL, WINNER, {"x": np.float32(1)}, "auto", "not an entry"),
        (SHAPE, "cython", Config(isa="abacus"), {}, "auto", "abacus|cannot be imported"),
    ],
)
def test_what_cannot_be_remembered(
    wisdom_folder: Path,
    shape: tuple[int, ...],
    impl: str,
    config: Config,
    evidence: dict[str, Any],
    requested: str,
    reason: str,
) -> None:
    """Refused with the reason; nothing is written."""
    with pytest.raises(ConfigError, match=f"`config`.*{reason}"):
        _wisdom.remember(spec(shape), impl, config, evidence, requested=requested)
    assert not wisdom_folder.exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _changed(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(remembered.document(path, **changes)))

    return change


def _of_another_problem(path: Path) -> None:
    other = remembered.remember((9, 4, 2, 999, 999, 16, 16))
    path.write_bytes(other.read_bytes())
    other.unlink()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": _truncate,
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "deep": lambda path: path.write_bytes(b"[" * 10**6),
    "other JSON": lambda path: path.write_text('{"winner": 1}'),
    "no object": lambda path: path.write_text("[1, null]"),
    "pipe": _pipe,
    "other version": _changed(version=1),
    "other processor": _changed(environment__cpu="Z80-1"),
    "other build": _changed(environment__implementations={}),
    "other abi": _changed(environment__tuning_abi=keys.TUNING_ABI + 1),
    "other limits": _changed(limits__threads=fastattn.machine().usable_cpus + 1),
    "other problem": _of_another_problem,
    "no such field": _changed(winner__config={"speed": 11}),
    "no such implementation": _changed(winner__impl="fortran"),
    "too many threads": _changed(winner__config={"threads": 1000}),
    "cannot run here": _changed(winner={"impl": "cython", "config": {"isa": "abacus"}}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_miss(
    wisdom_folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """The default computes; one warning names the file and the remedy, which mends it."""
    default = _explain()
    path = remembered.remember()
    DAMAGE[damage](path)
    with caplog.at_level(logging.WARNING, logger="fastattn"):
        for _ in range(3):
            store.changed()
            assert _explain() == default
            fastattn.attention(*arrays())
    (record,) = caplog.records
    assert record.name == "fastattn"
    assert str(path) in record.getMessage()
    assert "fastattn wisdom forget --damaged" in record.getMessage()
    assert fastattn.wisdom.forget(damaged=True) == 1
    assert not path.exists()
    remembered.remember()
    assert "tuned" in str(_explain())


def test_winner_that_runs_no_more(
    wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its implementation is gone, though the build is the same."""
    path = remembered.remember()
    monkeypatch.setattr(load(IMPL), "missing", lambda: "it has gone")
    with caplog.at_level(logging.WARNING, logger="fastattn"):
        assert _wisdom.lookup(spec(), "auto") is None
        assert _wisdom.lookup(spec((1, 4, 2, 60, 64, 16, 16)), "auto") is None
    assert [str(path) in r.getMessage() and "gone" in r.getMessage() for r in caplog.records] == [
        True
    ]


def test_the_next_best_is_found_behind_a_damaged_one(wisdom_folder: Path) -> None:
    """A neighbour, that is."""
    remembered.remember((1, 4, 2, 128, 64, 16, 16), Config(block_q=24))
    remembered.remember().write_text("")
    store.changed()
    found = _wisdom.lookup(spec(), "auto")
    assert found is not None
    assert "nearest bucket" in found.why


def test_a_folder_that_is_none(wisdom_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file in the place of a machine's folder is told; `remember` teaches."""
    remembered.here().parent.mkdir(parents=True)
    remembered.here().write_text("")
    with caplog.at_level(logging.WARNING, logger="fastattn"):
        assert _wisdom.lookup(spec(), "auto") is None
    assert "cannot be listed" in caplog.text
    with pytest.raises(fastattn.WisdomError, match="FASTATTN_WISDOM_DIR.*Fix"):
        remembered.remember()


def test_entries_that_go_away(wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look into the folder and the file: a miss, and nothing to tell of."""
    path = remembered.remember()
    name = path.name
    path.unlink()
    monkeypatch.setattr(store, "names", lambda folder: frozenset({name}))
    monkeypatch.setattr(store, "report", None)
    store.changed()
    assert _wisdom.lookup(spec(), "auto") is None


def test_nothing_to_compute(wisdom_folder: Path) -> None:
    """Has no wisdom, though one query has."""
    remembered.remember((1, 4, 2, 1, 64, 16, 16))
    assert _wisdom.lookup(spec((1, 4, 2, 1, 64, 16, 16)), "auto") is not None
    assert _wisdom.lookup(spec((1, 4, 2, 0, 64, 16, 16)), "auto") is None


def test_a_warm_call_does_not_look_up(wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do its neighbours in the bucket read the folder again."""
    remembered.remember()
    x = arrays()
    fastattn.attention(*x)
    monkeypatch.setattr(store, "names", None)
    assert "tuned" in str(_explain((1, 4, 2, 63, 65, 16, 16)))
    monkeypatch.setattr(_plan, "lookup", None)
    fastattn.attention(*x)
    with pytest.raises(TypeError):
        fastattn.attention(*arrays((1, 4, 2, 62, 65, 16, 16)))


@pytest.mark.timing
def test_a_warm_plan_takes_less_than_five_microseconds(wisdom_folder: Path) -> None:
    """The whole of `plan`, in the quietest of many short times."""
    remembered.remember()
    spec = remembered.spec()
    assert "tuned" in _plan.plan(spec, "auto", None).reasons["impl"]
    best = sys.float_info.max
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(20):
            _plan.plan(spec, "auto", None)
        best = min(best, (time.perf_counter() - start) / 20)
    assert best < 5e-6


def test_this_process_sees_what_it_changes(wisdom_folder: Path) -> None:
    """At once, in calls of the same kind."""
    assert "tuned" not in str(_explain())
    remembered.remember(config=Config(block_q=16))
    assert _explain().config.block_q == 16
    remembered.remember(config=Config(block_q=24))
    assert _explain().config.block_q == 24
    fastattn.wisdom.forget()
    assert "tuned" not in str(_explain())


def test_a_forked_child_looks_again(wisdom_folder: Path) -> None:
    """What its parent knew is not kept."""
    run_python(
        f"""
        import os, shutil, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import fastattn, remembered

        def tuned():
            return "tuned" in str(fastattn.explain(*remembered.empty(remembered.SHAPE)))

        path = remembered.remember()
        assert tuned()
        path.unlink()
        assert tuned(), "plans are kept"
        child = os.fork()
        if child == 0:
            os._exit(1 if tuned() else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        FASTATTN_WISDOM_DIR=str(wisdom_folder),
    )
