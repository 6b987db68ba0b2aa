"""`fastattn.wisdom`: what is remembered shown, carried and forgotten."""

from __future__ import annotations

import doctest
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
import remembered
from remembered import SHAPE

import fastattn
from fastattn import WisdomError, wisdom
from fastattn._wisdom import store

FUNCTIONS = [name for name in wisdom.__all__ if inspect.isfunction(getattr(wisdom, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_run(
    wisdom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In a folder of their own; each parameter is described."""
    monkeypatch.chdir(tmp_path)
    function = getattr(wisdom, name)
    (found,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert found.examples
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter} : " in (inspect.getdoc(function) or "")


def test_entries(wisdom_folder: Path) -> None:
    """Those of other machines too, and no damaged ones."""
    assert wisdom.entries() == ()
    path = remembered.remember(evidence={"raw": [1, 2.5]})
    (entry,) = wisdom.entries()
    assert (entry.impl, entry.config, entry.here) == (remembered.IMPL, remembered.WINNER, True)
    assert entry.evidence == {"raw": [1, 2.5]}
    assert remembered.location(entry) == path
    store.write(remembered.foreign(path))
    path.with_name("0" * 32 + ".json").write_text("{}")
    assert [e.here for e in wisdom.entries()].count(True) == 1
    assert len(wisdom.entries()) == 2


def test_show(wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problem, winner, limits; others are counted, damage is told."""
    assert wisdom.show() == f"wisdom in {wisdom_folder}\n0 of this machine and build, 0 of others"
    path = remembered.remember(window=(3, None), causal=True)
    remembered.remember(requested=remembered.IMPL)
    monkeypatch.setenv("FASTATTN_ISA", "baseline")
    if fastattn.machine().isas:
        remembered.remember()
    store.write(remembered.foreign(path))
    damaged = path.with_name("0" * 32 + ".json")
    damaged.write_text("{}")
    text = wisdom.show()
    assert "  B=1 Hq=4 Hkv=2 Lq=64 Lk=64 D=16 Dv=16 float32 causal window (3, None)\n" in text
    assert f"    {remembered.IMPL} {remembered.WINNER}\n" in text
    assert f"    {remembered.IMPL} {remembered.WINNER}, of {remembered.IMPL} alone\n" in text
    assert f"for at most {fastattn.machine().usable_cpus} threads; found 2" in text
    assert ("threads and baseline; found" in text) == bool(fastattn.machine().isas)
    assert f"damaged: {damaged}: " in text
    here = 3 if fastattn.machine().isas else 2
    assert text.endswith(f"{here} of this machine and build, 1 of others")


def test_carried_to_a_machine_and_back(wisdom_folder: Path, tmp_path: Path) -> None:
    """All of it; what is of another machine is kept apart, serves no call, and goes on."""
    path = remembered.remember()
    there = remembered.foreign(path, winner__config={"block_q": 999})
    store.write(there)
    assert wisdom.export(tmp_path / "all.json") == 2
    assert wisdom.forget(everywhere=True) == 2
    assert wisdom.import_(tmp_path / "all.json") == wisdom.MergeResult(2, 0, ())
    assert wisdom.import_(str(tmp_path / "all.json")) == wisdom.MergeResult(0, 2, ())
    assert remembered.location(there).exists()
    assert fastattn.explain(*remembered.empty(SHAPE)).config.block_q == remembered.WINNER.block_q
    path.unlink()
    store.changed()
    assert "tuned" not in str(fastattn.explain(*remembered.empty(SHAPE)))
    before = (tmp_path / "all.json").read_bytes()
    wisdom.import_(tmp_path / "all.json")
    wisdom.export(tmp_path / "all.json")
    assert (tmp_path / "all.json").read_bytes() == before


def test_import_takes_effect_at_once(wisdom_folder: Path, tmp_path: Path) -> None:
    """In calls of the same kind that were planned before."""
    remembered.remember()
    wisdom.export(tmp_path / "x.json")
    wisdom.forget()
    assert "tuned" not in str(fastattn.explain(*remembered.empty(SHAPE)))
    wisdom.import_(tmp_path / "x.json")
    assert "tuned" in str(fastattn.explain(*remembered.empty(SHAPE)))


def _export(path: Path, *documents: Any) -> Path:
    whole = {"format": "fastattn wisdom", "version": 2, "entries": documents}
    path.write_text(json.dumps(whole))
    return path


def test_each_entry_is_checked(wisdom_folder: Path, tmp_path: Path) -> None:
    """What is refused is told with its place and the reason, the rest is taken."""
    path = remembered.remember()
    documents = [
        remembered.document(path),
        {"x": 1},
        remembered.document(path, winner={"impl": "cython", "config": {"isa": "abacus"}}),
        remembered.document(path, environment__cpu="Z80", winner__config={"block_q": 8}),
        remembered.document(path, limits__threads=0),
    ]
    path.unlink()
    file = _export(tmp_path / "x.json", *documents)
    carried = wisdom.import_(file)
    assert (carried.added, carried.kept) == (2, 0)
    for number, (word, text) in zip(
        (1, 2, 4),
        zip(("format", "no instruction set", "limits"), carried.refused, strict=True),
        strict=True,
    ):
        assert text.startswith(f"{file}, entry {number}: ")
        assert word in text
    assert path.exists()
    assert len(wisdom.entries()) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"{}",
        b"[" * 10**6,
        b'{"format":"fastattn wisdom","version":1,"entries":[]}',
        b'{"format":"fastattn","version":2,"entries":[]}',
        b'{"format":"fastattn wisdom","version":2,"entries":{}}',
        b'{"format":"fastattn wisdom","version":2,"entries":[],"more":1}',
    ],
    ids=range(9),
)
def test_what_is_no_export(wisdom_folder: Path, tmp_path: Path, data: bytes) -> None:
    """The whole call is refused: nothing of the other files is taken."""
    remembered.remember()
    wisdom.export(tmp_path / "good.json")
    wisdom.forget()
    (tmp_path / "bad.json").write_bytes(data)
    with pytest.raises(WisdomError, match="bad.json.*a file that export wrote.*Fix"):
        wisdom.merge(tmp_path / "good.json", tmp_path / "bad.json")
    with pytest.raises(WisdomError, match="No such file"):
        wisdom.merge(tmp_path / "good.json", tmp_path / "none.json")
    assert wisdom.entries() == ()


def test_export_that_cannot_be_written(wisdom_folder: Path, tmp_path: Path) -> None:
    """Names the argument."""
    with pytest.raises(WisdomError, match="`file`.*No such file"):
        wisdom.export(tmp_path / "no" / "x.json")


def test_merge_to_a_file(wisdom_folder: Path, tmp_path: Path) -> None:
    """The newer of each; this machine's wisdom is left alone."""
    path = remembered.remember()
    old = remembered.document(path, date="2020-01-01T00:00:00Z")
    new = remembered.document(path, date="2021-01-01T00:00:00Z")
    there = remembered.document(path, environment__cpu="Z80")
    a, b = _export(tmp_path / "a", old, there), _export(tmp_path / "b", new, {"x": 1})
    carried = wisdom.merge(a, b, out=tmp_path / "both")
    assert (carried.added, carried.kept, len(carried.refused)) == (2, 1, 1)
    whole = json.loads((tmp_path / "both").read_text())["entries"]
    assert sorted(e["date"] for e in whole) == sorted([new["date"], there["date"]])
    wisdom.merge(b, a, out=tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "both").read_bytes()
    assert len(wisdom.entries()) == 1
    assert wisdom.merge(tmp_path / "both") == wisdom.MergeResult(1, 1, ())
    assert wisdom.entries()[0].date != new["date"]
    path.write_text("damaged")
    assert wisdom.import_(tmp_path / "both").added == 1


def test_forget(wisdom_folder: Path, tmp_path: Path) -> None:
    """By shape and type, of this machine, of all, or what is damaged."""
    other = (1, 4, 2, 9, 9, 16, 16)
    path = remembered.remember()

    def fill() -> None:
        for shape in (SHAPE, other):
            for dtype in ("float32", "float64"):
                remembered.remember(shape, dtype=dtype)
        store.write(remembered.foreign(path))

    fill()
    assert wisdom.forget((1, 4, 2, 60, 70, 16)) == 2
    assert wisdom.forget(other, "float64") == 1
    assert len(wisdom.entries()) == 2
    fill()
    assert wisdom.forget(dtype="float64") == 2
    assert wisdom.forget() == 2
    assert wisdom.forget() == 0
    assert wisdom.forget((1, 4, 2, 60, 70, 16), everywhere=True) == 1
    fill()
    assert wisdom.forget(everywhere=True) == 5
    fill()
    path.write_text("{")
    stray = path.with_name("0.json")
    stray.write_bytes(remembered.remember(other).read_bytes())
    assert wisdom.forget() == 3
    assert wisdom.forget(damaged=True) == 2
    assert [entry.here for entry in wisdom.entries()] == [False]


def test_forget_sweeps_what_killed_writers_left(wisdom_folder: Path) -> None:
    """Once nobody can be writing it any more."""
    path = remembered.remember()
    old, young = path.with_name(".a.tmp"), path.with_name(".b.tmp")
    for leftover in (old, young):
        leftover.write_text("half")
    os.utime(old, (0, 0))
    assert wisdom.forget(damaged=True) == 0
    assert (old.exists(), young.exists(), path.exists()) == (False, True, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (((1, 2, 3),), "`shape`"),
        (((1, 2, 2, 4, 4, 0),), "`shape`"),
        (((1, 2, 2, 4, 4, 8.0),), "`shape`"),
        (((1, 3, 2, 4, 4, 8),), "3 query heads"),
        ((None, "int8"), "`dtype`"),
    ],
)
def test_forget_refuses(wisdom_folder: Path, arguments: tuple[Any, ...], word: str) -> None:
    """What is no shape or data type; nothing is removed."""
    remembered.remember()
    with pytest.raises(fastattn.FastattnError, match=f"{word}.*Fix"):
        wisdom.forget(*arguments)
    assert len(wisdom.entries()) == 1
