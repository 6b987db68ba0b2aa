"""The command ``fastattn wisdom``."""

from __future__ import annotations

from pathlib import Path

import pytest
import remembered
from processes import Command

from fastattn import wisdom


def test_show(wisdom_folder: Path, command: Command) -> None:
    """What `wisdom.show` says."""
    remembered.remember()
    status, out, err = command("wisdom", "show")
    assert (status, out, err) == (0, wisdom.show() + "\n", "")


def test_carry(wisdom_folder: Path, tmp_path: Path, command: Command) -> None:
    """Export, merge, import."""
    path = remembered.remember()
    remembered.remember((1, 4, 2, 9, 9, 16, 16))
    a, b, both = (str(tmp_path / name) for name in ("a", "b", "both"))
    status, out, err = command("wisdom", "export", a)
    assert (status, out, err) == (0, f"2 exported to {a}\n", "")
    path.unlink()
    assert command("wisdom", "export", b)[1] == f"1 exported to {b}\n"
    status, out, err = command("wisdom", "merge", a, b, "-o", both)
    assert (status, out, err) == (0, "2 added, 1 kept, 0 refused\n", "")
    status, out, err = command("wisdom", "import", both)
    assert (status, out, err) == (0, "1 added, 1 kept, 0 refused\n", "")
    assert path.exists()


def test_refused_entries_are_told(wisdom_folder: Path, tmp_path: Path, command: Command) -> None:
    """And counted."""
    file = tmp_path / "x.json"
    file.write_text('{"format":"fastattn wisdom","version":2,"entries":[7]}')
    status, out, _ = command("wisdom", "import", str(file))
    first, last = out.splitlines()
    assert status == 0
    assert first.startswith(f"refused: {file}, entry 0: ")
    assert last == "0 added, 0 kept, 1 refused"


def test_forget(wisdom_folder: Path, command: Command) -> None:
    """What is named, and no more."""
    path = remembered.remember()
    remembered.remember(dtype="float64")
    wide = remembered.remember((1, 4, 2, 9, 9, 16, 16))
    shape = ("--shape", "1,4,2,64,64,16")
    assert command("wisdom", "forget", *shape, "--dtype", "float64")[1] == "1 forgotten\n"
    assert command("wisdom", "forget", *shape)[1] == "1 forgotten\n"
    assert wide.exists()
    path.write_text("{")
    there = remembered.foreign(wide)
    remembered.location(there).parent.mkdir()
    remembered.location(there).write_text(wide.read_text())  # in the wrong place: damaged
    assert command("wisdom", "forget", "--damaged")[1] == "2 forgotten\n"
    assert command("wisdom", "forget", "--here")[1] == "1 forgotten\n"
    remembered.remember()
    assert command("wisdom", "forget", "--all", "--dtype", "float64")[1] == "0 forgotten\n"
    assert command("wisdom", "forget", "--all")[1] == "1 forgotten\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "ACTION"),
        (("forget",), "--all --here --damaged --shape"),
        (("forget", "--all", "--here"), "--here"),
        (("forget", "--shape", "1,2"), "shape"),
        (("forget", "--shape", "1,2,2,0,4,8"), "shape"),
        (("forget", "--all", "--dtype", "int8"), "dtype"),
        (("forget", "--damaged", "--dtype", "float32"), "without --damaged"),
        (("merge", "a"), "-o"),
        (("merge", "-o", "x"), "FILE"),
        (("import", "/nowhere"), "/nowhere"),
        (("export", "/nowhere/x"), "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_errors(
    wisdom_folder: Path, command: Command, arguments: tuple[str, ...], word: str
) -> None:
    """Exit status 2, the fault on standard error, no traceback; nothing is removed."""
    remembered.remember()
    status, out, err = command("wisdom", *arguments)
    assert status == 2
    assert word in err
    assert not out
    assert "Traceback" not in err
    assert len(wisdom.entries()) == 1
