"""The paired driver with real processes: small packages as base and head, in a few rounds."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import Case
from perf import run
from perf.paired import __main__ as command
from perf.paired import builds, calibrate, engine, live, rounds, worker
from perf.paired.cells import BENCHMARKS, SUITES, Cell, cells
from perf.paired.engine import SourceError
from perf.paired.rounds import Pace, Process, Side, WorkerError, Workers
from perf.paired.rule import Round, Rule
from perf.progress import Progress

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes are bound as Linux does it"
)

# As much of the public face as the benchmarks use; `EXTRA` calls too many.
PACKAGE = """
import os
import numpy as np

EXTRA = 0

def implementations():
    return {"numpy": None, "cython": None}

def Config(threads):
    return threads

def attention(q, k, v, *, causal, impl, config):
    for _ in range(1 + EXTRA):
        s = q @ k.swapaxes(-1, -2) / np.sqrt(q.dtype.type(q.shape[-1]))
        e = np.exp(s - s.max(-1, keepdims=True))
        result = e @ v / e.sum(-1, keepdims=True)
    return result
"""
QUICK = Rule(screening=1, looks=1, alpha=0.3)  # six fresh rounds for one cell
PACE = Pace(block_seconds=0.001, pairs=8, least_pairs=8, cell_seconds=0.1)
TINY = {
    name: Cell(name, Case(1, 1, 1, length, length, 16), "cython")
    for name, length in (("a", 48), ("b", 24), ("c", 12))
}


def package(folder: Path, more: str = "") -> Path:
    (folder / "fastattn").mkdir(parents=True)
    (folder / "fastattn/__init__.py").write_text(PACKAGE + more)
    return folder


def sides(base: Path, head: Path) -> list[Side]:
    return [Side("base", sys.executable, base), Side("head", sys.executable, head)]


def source(tmp_path: Path, base: str, head: str, names: str = "abc") -> Workers:
    (tmp_path / "rounds").mkdir()
    both = sides(package(tmp_path / "x", base), package(tmp_path / "y", head))
    chosen = {name: TINY[name] for name in names}
    return Workers(both, chosen, QUICK, tmp_path / "rounds", pace=PACE)


# --- Processes -------------------------------------------------------------------------

BAD_HEAD = """
EXTRA = 3
right = attention

def attention(q, *arrays, **options):
    if q.shape[-2] == 24:
        return right(q, *arrays, **options) * 1.001
    if q.shape[-2] == 12:
        raise NotImplementedError("no twelve")
    return right(q, *arrays, **options)
"""


@pytest.mark.slow
def test_a_slower_head_is_found_and_the_rest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One cell slower, one wrong, one that the head cannot run; from start to files."""
    both = sides(package(tmp_path / "x"), package(tmp_path / "y", BAD_HEAD))
    before = os.sched_getaffinity(0)
    with Progress(rich=False) as progress:
        found, facts = live.measure(
            both, TINY, QUICK, progress, pace=PACE, folder=tmp_path / "rounds"
        )
    assert os.sched_getaffinity(0) == before
    assert found.verdicts["a"].word == "worse"
    assert 2 < found.verdicts["a"].ratio < 6
    assert found.troubles["b"].kind == "wrong"
    assert found.troubles["b"].text.startswith("head: ArithmeticError: error")
    assert asdict(found.troubles["c"]) == {
        "kind": "failed",  # the base can
        "text": "head: NotImplementedError: no twelve",
    }
    assert found.status == 1

    assert facts["base"]["cpus"] == facts["head"]["cpus"] == [max(before)]
    variables = facts["base"]["variables"]
    assert variables == facts["head"]["variables"]
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["FASTATTN_WISDOM"] == "off"
    assert variables["FASTATTN_ISA"] is None
    assert variables["PYTHONHASHSEED"].isdigit()
    assert facts["base"]["threads"] == 1

    about = {
        "base": "v1 (0123)",
        "head": "HEAD (4567)",
        "machine": "a machine",
        "suite": "smoke",
        "threads": 1,
        "minutes": 0.1,
        "conditions": facts,
    }
    assert command.conclude(found, about, tmp_path / "out") == 1
    text = (tmp_path / "out.md").read_text()
    assert text in capsys.readouterr().out
    assert "1 worse, 0 better, 0 same, 0 unresolved" in text
    assert "| **worse** |" in text
    assert "- b: **disagrees with the oracle**, head: Arith" in text
    assert "- c: **failed**, head: NotImpl" in text
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["status"] == 1
    assert len(kept["confirming"]["a"]) == kept["verdicts"]["a"]["rounds"]
    assert kept["conditions"]["base"]["numpy"] == facts["base"]["numpy"]


@pytest.mark.slow
def test_processes_are_fresh_and_the_count_is_shared(tmp_path: Path) -> None:
    note = tmp_path / "note"
    more = f"open({str(note)!r}, 'a').write(str(os.getpid()) + ' ' + __file__ + '\\n')\n"
    several = source(tmp_path, more, more + "EXTRA = 2\n", "a")
    calls = []
    for _ in range(2):
        one = several.round(["a"])["a"]
        calls.append(several._calls["a"])
        assert one.pairs == 8
    assert calls[0] == calls[1] >= 1
    lines = [line.split() for line in note.read_text().splitlines()]
    assert len({pid for pid, _ in lines}) == 4
    assert {Path(where).parent.parent for _, where in lines} == {
        tmp_path / "rounds/0",
        tmp_path / "rounds/1",
    }


@pytest.mark.slow
def test_a_process_that_ends_costs_its_cell_only(tmp_path: Path) -> None:
    more = "\nright = attention\ndef attention(q, *a, **b):\n"
    more += "    return os._exit(7) if q.shape[-2] == 24 else right(q, *a, **b)\n"
    several = source(tmp_path, "", more, "ab")
    assert set(several.round(["a", "b"])) == {"a"}
    assert several.troubles["b"].kind == "failed"
    assert "head: its process ended with 7" in several.troubles["b"].text
    assert several.round([]) == {}


@pytest.mark.slow
def test_what_the_base_cannot_is_no_failure(tmp_path: Path) -> None:
    """As where the head brings something new: nothing got worse."""
    more = "\nright = attention\ndef attention(q, *a, **b):\n"
    more += "    return None.new if q.shape[-2] == 24 else right(q, *a, **b)\n"
    several = source(tmp_path, more, "", "ab")
    assert set(several.round(["a", "b"])) == {"a"}
    assert several.troubles["b"].kind == "cannot"
    assert several.troubles["b"].text.startswith("base: AttributeError")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [("1 / 0\n", "head: its process ended with 1: ZeroDivisionError"), (None, "not from")],
)
def test_a_side_that_does_not_start(tmp_path: Path, more: str | None, words: str) -> None:
    """It fails at import; or there is no package, and another one would be measured."""
    several = source(tmp_path, "", more or "", "a")
    if more is None:
        (tmp_path / "y/fastattn/__init__.py").unlink()
        (tmp_path / "y/fastattn").rmdir()
        (tmp_path / "y/other").mkdir()
    with pytest.raises(SourceError, match=words if more else "not from|No module"):
        several.round(["a"])
    found = engine.compare(several, ["a"], QUICK)
    assert (found.status, found.verdicts["a"].word) == (2, "unresolved")
    assert "head" in found.stopped


@pytest.mark.slow
def test_silence_has_an_end(tmp_path: Path) -> None:
    side = Side("base", sys.executable, package(tmp_path / "x", "import time; time.sleep(60)\n"))
    with Process(side, None, 0) as process:
        process.send("facts")
        with pytest.raises(WorkerError, match=r"no answer in 0\.2 s"):
            process.answer(0.2)


@pytest.mark.slow
def test_no_time_is_left(tmp_path: Path) -> None:
    several = source(tmp_path, "", "", "a")
    several._end = 0.0
    assert several.round(["a"]) == {}


# --- What is compared ------------------------------------------------------------------


def test_cells_are_the_cases_of_the_asv_classes() -> None:
    for suite in SUITES.values():
        found = cells(suite)
        assert {cell.impl for cell in found.values()} == set(suite.impls)
        cases = [(cell.case, cell.impl) for cell in found.values()]
        assert len(cases) == len(set(cases))
    standard = cells(SUITES["standard"])
    assert set(cells(SUITES["smoke"])) <= set(standard)
    assert standard["DimGrid 512 float64 cython"].case == Case(
        1, 1, 1, 512, 512, 512, dtype="float64"
    )
    assert "Regimes dim-512 cython" not in standard  # it is DimGrid's
    assert "Regimes decode-bfloat16 cython" in standard
    for benchmark in BENCHMARKS:
        assert any(name.startswith(f"{benchmark.__name__} ") for name in standard)


def test_cells_are_chosen_by_name_and_implementation() -> None:
    found = cells(SUITES["smoke"], ("numpy", "numba"), "decode|Call")
    assert list(found) == [
        "Call smallest call numpy",
        "Call smallest call numba",
        "Workloads decode float32 numpy",
        "Workloads decode float32 numba",
    ]


# --- The command -----------------------------------------------------------------------


class Installed:
    """A builder that has all it needs."""

    def __init__(self, log: Path, say: Any) -> None:
        self.say = say

    def commit(self, revision: str) -> str:
        if revision == "nowhere":
            raise builds.BuildError("'nowhere' is no commit of this repository")
        return f"{revision:0<40}"

    def install(self, commit: str, name: str) -> builds.Build:
        if commit.startswith("stop"):
            raise KeyboardInterrupt
        self.say(f"building {commit[:8]}")
        folder = Path("packages", name).resolve()
        if not folder.exists():
            package(folder, "EXTRA = 3\n" * (name == "head" and commit.startswith("slow")))
        return builds.Build(commit, sys.executable, folder)


class Told:
    """Rounds that say what the head's package says it is, with some noise."""

    def __init__(self, head: Side) -> None:
        self.troubles: dict[str, engine.Trouble] = {}
        slower = "EXTRA = 3" in (head.folder / "fastattn/__init__.py").read_text()
        self._rounds = itertools.cycle(
            [1.2 * slower + (head.delay or 0.0) + x for x in (0.001, -0.002, 0.003)]
        )

    def round(self, names: Any) -> dict[str, Round]:
        return {name: Round(next(self._rounds), 1.0, 1.0, 10, 0) for name in names}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands, in a folder of their own and without processes."""

    def measure(both: list[Side], chosen: Any, rule: Rule, progress: Progress, *rest: Any) -> Any:
        end = None if rest[0] is None else time.monotonic() + rest[0]
        told = Told(both[1])
        return engine.compare(told, list(chosen), rule, end, progress.round), {}

    for module in (command, calibrate):
        monkeypatch.setattr(module, "Builder", Installed)
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "measure", measure)
        monkeypatch.setattr(module, "cells", lambda *_: {"a": TINY["a"]})
    monkeypatch.setattr(run, "uncommitted", lambda: ["setup.py"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["fast", "slow"], 1, "slow (slow0000)**: 1 worse"),
        (["fast", "fast"], 0, "1 same"),
        (["fast", "fast", "--minutes", "0"], 2, "Incomplete: out of time."),
        (["fast", "nowhere"], 2, "'nowhere' is no commit"),
        (["fast", "stop"], 130, "interrupted while building"),
    ],
)
def test_the_command(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["paired", *arguments])
    assert command.main() == status
    captured = capsys.readouterr()
    assert words in captured.out
    if status == 1:
        assert (here / ".asv/paired/compare.md").read_text() in captured.out
        assert "screening: round 6 of 6" in captured.err
    assert "setup.py" not in captured.out  # only HEAD is like the working tree


def test_nothing_to_compare(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "cells", cells)
    monkeypatch.setattr(sys, "argv", ["paired", "fast", "--bench", "no such"])
    assert command.main() == 2


def test_calibration_adds_up(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two invocations, of equal sides and of a delayed head; then the summary alone."""
    result = here / "result.md"
    arguments = ["calibrate", "--revision", "fast", "--result", str(result), "--simulate", "20"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--times", "0"])
    assert calibrate.main() == 2  # nothing is there
    monkeypatch.setattr(sys, "argv", [*arguments, "--percent", "0", "5"])
    for _ in range(2):
        assert calibrate.main() == 0
    monkeypatch.setattr(sys, "argv", [*arguments, "--times", "0"])
    assert calibrate.main() == 0
    found = result.read_text()
    assert "`python -m perf.paired.calibrate --revision fast" in found
    assert "| 0 % | 2 | 0/2 " in found
    assert "| 5 % | 2 | - | 2/2 " in found
    assert found in capsys.readouterr().out
    before = calibrate.LOG.read_text()
    monkeypatch.setattr(sys, "argv", [*arguments, "--revision", "stop"])
    assert calibrate.main() == 130  # and what was there is still there, and shown
    assert calibrate.LOG.read_text() == before


@pytest.mark.parametrize("share", [0.0, 0.1, 2.0])
def test_a_delayed_call_lasts_longer_by_its_share(share: float) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1e-6
        return now[0]

    def call() -> str:
        now[0] += 1e-2
        return "result"

    assert worker.delayed(call, share, clock)() == "result"
    assert now[0] == pytest.approx(1e-2 * (1 + share), rel=2e-3)


def test_progress_with_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    with Progress(rich=True) as progress:
        progress.say("building")
        progress.round("screening", 1, 6)
        progress.cell("a")
    assert capsys.readouterr().out == ""


def test_workers_have_the_last_cpus() -> None:
    usable = sorted(os.sched_getaffinity(0))
    theirs, ours = live.cpu_sets(1)
    assert theirs == usable[-1:]
    assert ours == (usable[:-1] or usable)
    assert rounds.SIDES == ("base", "head")
