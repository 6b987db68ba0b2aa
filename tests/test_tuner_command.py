"""The command ``fastattn tune``: what it shows, writes and draws."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from processes import Command, run_python
from simulated import Idle, system_load

import fastattn
from fastattn.tuner import run
from fastattn.tuner.strategies import STRATEGIES
from fastattn.tuner.system import SystemMonitor
from perf import tuning_chart

SHAPE = "1,2,2,64,64,16"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, wisdom_folder: Path) -> None:
    """An idle machine on which small blocks are fast."""
    monkeypatch.setattr(run, "Live", Idle)
    monkeypatch.setattr(SystemMonitor, "load", lambda _: system_load())


def test_results(command: Command) -> None:
    """For each shape what was found, and a table with the winner and the default."""
    status, out, err = command("tune", "--shape", SHAPE, "--shape", "2,2,1,32,48,8,4", "--causal")
    assert status == 0, err
    assert "Lq=64 Lk=64 D=16 Dv=16 float32 causal" in out
    assert "B=2 Hq=2 Hkv=1 Lq=32 Lk=48 D=8 Dv=4 float32 causal" in out
    assert out.count("rank  configuration") == 2
    winner = next(line for line in out.splitlines() if line.endswith("  winner"))
    rank, name, *fields = winner.split()
    assert int(rank) >= 1
    assert name in fastattn.implementations()
    assert fields[0].startswith("block_q=")
    assert " to 0." in winner
    default = next(line for line in out.splitlines() if "default" in line and "1.000" in line)
    assert "(" not in default
    assert len(fastattn.wisdom.entries()) == 2


def test_not_remembered(command: Command) -> None:
    """Where it is asked to leave it."""
    status, out, _ = command("tune", "--shape", SHAPE, "--no-remember")
    assert status == 0
    assert "no: not requested" in out
    assert not fastattn.wisdom.entries()


def test_options_arrive(command: Command, tmp_path: Path) -> None:
    """Each is what `fastattn.tune` is given, and the file tells of it."""
    file = tmp_path / "found.json"
    status, _, err = command(
        *("tune", "--shape", SHAPE, "--dtype", "float64", "--space", "study", "--budget", "5"),
        *("--strategy", "genetic", "--seed", "7", "--impl", "cython", "--json", str(file)),
    )
    assert status == 0, err
    document = json.loads(file.read_text())
    assert document["machine"]["usable_cpus"] == fastattn.machine().usable_cpus
    [result] = document["results"]
    assert result["problem"].endswith("float64")
    assert result["space"] == "study"
    assert result["strategy"] == "genetic"
    assert (result["seed"], result["budget"], result["evaluations"]) == (7, 5, 5)
    assert len(result["search"]["evaluations"]) == 5
    assert list(tmp_path.iterdir()) == [file]


def test_long_tables_end(command: Command) -> None:
    """Twenty rows, and how many more there are."""
    status, out, _ = command("tune", "--shape", "1,2,2,512,512,16", "--budget", "30")
    assert status == 0
    assert "and 10 more" in out


def test_interrupted(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C shows and writes what there is; no other shape is begun."""
    monkeypatch.setattr(Idle, "interrupt", 30)
    file = tmp_path / "found.json"
    status, out, err = command(
        "tune", "--shape", SHAPE, "--shape", "1,1,1,8,8,8", "--json", str(file)
    )
    assert status == 130
    assert out.count("rank  configuration") == 1
    assert "it was interrupted" in out
    assert "interrupted" in err
    assert len(json.loads(file.read_text())["results"]) == 1
    assert not fastattn.wisdom.entries()


@pytest.mark.parametrize("shape", [(), ("--shape", "1,4,4,1,4096,64")])
def test_spaces(command: Command, shape: tuple[str, ...]) -> None:
    """Genes, values, meanings and numbers of points."""
    status, out, _ = command("tune", *shape, "--space")
    assert status == 0
    assert "study: 32 points" in out
    assert "kernel: " in out
    assert "block    8, 16, 32, 64" in out
    assert "instruction set" in out
    assert ("keys_per_split" in out) == bool(shape)
    if not shape:
        assert "study" not in command("tune", "--space", "kernel")[1]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_chart(
    command: Command, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`perf.tuning_chart` draws every search, interrupted ones and failures too."""
    pytest.importorskip("matplotlib")
    found, file = tmp_path / "found.json", tmp_path / f"found{suffix}"
    shape = ("--shape", SHAPE, "--json", str(found))
    assert command("tune", *shape)[0] == 0
    assert tuning_chart.main([str(found), str(file)]) == 0
    data = file.read_bytes()
    if suffix == ".svg":
        assert all(text in data.decode() for text in ("best so far", "Lq=64", "(winner)"))
    else:
        assert data.startswith(b"\x89PNG")
    monkeypatch.setattr(Idle, "interrupt", 25)
    assert command("tune", *shape)[0] == 130
    assert tuning_chart.main([str(found), str(file)]) == 0
    assert file.read_bytes() != data
    monkeypatch.setattr(Idle, "interrupt", None)
    monkeypatch.setattr(Idle, "only_default", True)
    status, out, _ = command("tune", *shape)
    assert status == 0
    assert "out of order" in out
    assert "nothing was compared" in out
    assert tuning_chart.main([str(found), str(file)]) == 0
    assert suffix == ".png" or "failed" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--shape"),
        (("--shape", "1,2"), "shape"),
        (("--shape", "1,2,2,4,4,x"), "shape"),
        (("--shape", "1,2,2,0,4,4"), "nothing to compute"),
        (("--shape", SHAPE, "--dtype", "int8"), "dtype"),
        (("--shape", SHAPE, "--space", "outer"), "space"),
        (("--shape", SHAPE, "--strategy", "hope"), "strategy"),
        (("--shape", SHAPE, "--impl", "cuda"), "impl"),
        (("--shape", SHAPE, "--budget", "0"), "budget"),
        (("--shape", SHAPE, "--seconds", "-1"), "seconds"),
        (("--shape", SHAPE, "--json", "nowhere/found.json"), "nowhere/found.json: No such file"),
        (("--shape", SHAPE, "--seed", "-1"), "seed"),
        (("--shape", SHAPE, "--shape", "1,3,2,4,4,4"), "3 query heads"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, tuple) else value,
)
def test_errors(command: Command, arguments: tuple[str, ...], word: str) -> None:
    """Exit status 2 before anything is measured, the fault on standard error."""
    status, out, err = command("tune", *arguments)
    assert status == 2
    assert word in err
    assert not out
    assert "Traceback" not in err


def test_a_file_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    """It is refused before anything is measured; if the disk is full then, the result is shown."""
    (tmp_path / "found.json").mkdir()
    for path, shown in ((tmp_path / "found.json", False), (Path("/dev/full"), True)):
        if not path.exists():
            continue  # no such device
        status, out, err = command("tune", "--shape", SHAPE, "--json", str(path))
        assert status == 2
        assert ("ratio to the default" in out) == shown
        assert "--json" in err


def test_help(command: Command) -> None:
    """Names every strategy."""
    status, out, _ = command("tune", "--help")
    assert status == 0
    assert all(name in out for name in STRATEGIES)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(command: Command, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """A line on standard error, if that is a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    status, _, err = command("tune", "--shape", SHAPE)
    assert status == 0
    assert bool(err) == terminal
    if terminal:
        assert "preparing" in err
        assert "search: " in err


def test_in_a_process() -> None:
    """Live, as a user runs it; Ctrl-C from outside ends it with 130."""
    run_python(
        """
        import os, signal, threading, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where started with &
        os.environ["FASTATTN_WISDOM_DIR"] = sys.argv[1]
        from fastattn.__main__ import main
        small = ["tune", "--impl", "cython", "--no-remember", "--shape", "1,1,1,16,16,8"]
        assert main([*small, "--budget", "2"]) == 0
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        large = ["tune", "--impl", "cython", "--shape", "1,8,8,1024,1024,64", "--budget", "99"]
        assert main(large) == 130
        """,
        "/nonexistent",
    )
