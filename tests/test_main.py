"""The command ``fastattn info`` and ``fastattn explain``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Command
from targets import RUNNABLE

import fastattn


def test_info(command: Command) -> None:
    """Version, machine, implementations and instruction sets, with reasons where missing."""
    status, out, err = command("info")
    assert status == 0, err
    assert fastattn.__version__ in out
    machine = fastattn.machine()
    assert machine.processor in out
    for name, reason in fastattn.implementations().items():
        assert name in out
        assert reason is None or reason in out
    for isa in machine.isas:
        assert isa in out
    for isa, reason in machine.missing_isas.items():
        assert isa in out
        assert reason in out


@pytest.mark.parametrize("looking_on", [False, True])
def test_info_roofline(command: Command, monkeypatch: pytest.MonkeyPatch, looking_on: bool) -> None:
    """A row of positive numbers for 1, 2, 4, ... threads; progress only for who looks on.

    A dash, with the reason, for an instruction set without products of bfloat16.
    """
    usable = fastattn.machine().usable_cpus
    isas = fastattn.machine().isas
    if not isas:
        pytest.skip(f"cython: {fastattn.implementations()['cython']}")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looking_on, raising=False)
    status, out, err = command("info", "--roofline", "--isa", isas[-1])
    assert status == 0, err
    assert f"roofline of {isas[-1]}" in out
    *rows, why = out[out.index("float32 GFLOP/s") :].splitlines()[1:]
    products = isas[-1] in ("amx_model", "avx512_bf16")
    assert ("has no products" in why) != products
    numbers = [[float(word) for word in row.split() if word != "-"] for row in rows]
    assert [row[0] for row in numbers] == sorted(
        {usable, *(2**i for i in range(11) if 2**i < usable)}
    )
    assert all(len(row) == 5 + products and min(row) > 0 for row in numbers)
    assert bool(err) == looking_on


def test_explain(command: Command) -> None:
    """What `fastattn.explain` prints for arrays of that shape."""
    status, out, err = command("explain", "--shape", "4,32,8,1,4096,128", "--dtype", "float32")
    assert status == 0, err
    assert "B=4 Hq=32 Hkv=8 Lq=1 Lk=4096 D=128 Dv=128 float32" in out
    auto = next(name for name, why in fastattn.implementations().items() if why is None)
    assert auto in out
    assert "masks          none" in out


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_explain_everything(command: Command, dtype: str) -> None:
    """Every option, every data type, every implementation that runs here."""
    for impl in {target.impl for target in RUNNABLE}:
        status, out, err = command(
            "explain", "--shape", "2,4,2,64,64,32,16", "--dtype", dtype, "--causal", "--impl", impl
        )
        assert status == 0, err
        assert f"D=32 Dv=16 {dtype}" in out
        assert "requested" in out
        assert "causal" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("explain", "--shape", "1,3,2,4,4,8", "--dtype", "float32"), "3 query heads"),
        (("explain", "--shape", "1,2,2,4,4,0", "--dtype", "float32"), "D"),
        (("explain", "--shape", "1,2,2", "--dtype", "float32"), "shape"),
        (("explain", "--shape", "1,2,2,4,4,x", "--dtype", "float32"), "shape"),
        (("explain", "--shape", "1,2,2,4,-4,8", "--dtype", "float32"), "shape"),
        (("explain", "--shape", "1,1,1,4,4,8", "--dtype", "int8"), "dtype"),
        (("explain", "--shape", "1,1,1,4,4,8", "--dtype", "float32", "--impl", "cuda"), "impl"),
        (("explain", "--dtype", "float32"), "shape"),
        (("sing",), "sing"),
        (("info", "--loudly"), "loudly"),
        (("info", "--roofline", "--isa", "abacus"), "abacus"),
        (("info", "--isa", "avx2"), "--roofline"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else value,
)
def test_errors(command: Command, arguments: tuple[str, ...], word: str) -> None:
    """Exit status 2, the fault on standard error, nothing on standard output, no traceback."""
    status, out, err = command(*arguments)
    assert status == 2
    assert word in err
    assert not out
    assert "Traceback" not in err


def test_help(command: Command) -> None:
    """Tells the subcommands."""
    status, out, _ = command("--help")
    assert status == 0
    assert "info" in out
    assert "explain" in out


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["plain", "strict", "C"],
)
def test_as_a_process(environment: dict[str, str]) -> None:
    """``python -m fastattn`` from outside."""
    done = subprocess.run(
        [sys.executable, "-m", "fastattn", "info"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    assert fastattn.__version__ in done.stdout
    assert not done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_nobody_reads_on() -> None:
    """``fastattn info | head -1`` ends without a word, and with the status of a broken pipe."""
    for arguments in (["info"], ["--help"], ["tune", "--help"]):
        nobody, output = os.pipe()
        os.close(nobody)
        assert _written_to(output, *arguments) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_full_disk() -> None:
    """A message and a status, whoever prints: a command, or the parser."""
    for arguments in (["info"], ["--help"]):
        status, error = _written_to(os.open("/dev/full", os.O_WRONLY), *arguments)
        assert status == 2
        assert error.startswith("fastattn: the output is lost")
        assert "No space" in error
        assert "Traceback" not in error


def test_a_terminal_without_a_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it cannot show is escaped: also names of files that are no text."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (tmp_path / "\u00b5\udcff").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "fastattn", "wisdom", "import", str(tmp_path / "\u00b5\udcff")],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"\\xb5\\udcff: not JSON" in done.stderr


def _written_to(output: int, *arguments: str) -> tuple[int, str]:
    """Status and standard error of the command whose standard output is that file, now closed."""
    done = subprocess.run(
        [sys.executable, "-m", "fastattn", *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONUNBUFFERED": ""},  # argparse passes over what it cannot write
    )
    os.close(output)
    return done.returncode, done.stderr
