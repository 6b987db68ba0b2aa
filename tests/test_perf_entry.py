"""How the tools end, whatever is wrong with their files, their output or their packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perf import conditions, entry, history, report, tuning_chart
from perf.files import FileError, check_writable, write_whole
from perf.paired import calibrate
from perf.peers.results import Results as Peers
from perf.study.data import Record
from perf.tuner_replay.results import Results as Replays

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "a" * 40
DAMAGED = {
    "cut": '{"format": 1, "commit_hash": "aaaaaa',
    "empty": "",
    "null": "null",
    "list": "[]",
    "object": "{}",
    "deep": "[" * 100_000,
    "number": "1",
    "bytes": "\udcff",
}
READERS: dict[str, Callable[[Path], Any]] = {
    "record": Record.read,
    "peers": Peers.read,
    "replays": Replays.read,
    "calibrate": lambda path: calibrate.lines(path, "smoke", 1),
    "chart": lambda path: tuning_chart.main([str(path), os.devnull]),
    "report": lambda path: report.load(path.parents[1], COMMIT),
    "history": lambda path: history.values(COMMIT, "machine", path.parents[1]),
    "conditions": lambda path: conditions.load(path.parents[1], "machine", COMMIT),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_named(tmp_path: Path, reader: str, damage: str) -> None:
    """What an interruption or another program left there: its name and the reason, no traceback."""
    name = f"{COMMIT[:8]}.conditions" if reader == "conditions" else f"{COMMIT[:8]}-x.json"
    path = tmp_path / "machine" / name
    path.parent.mkdir()
    path.write_bytes(os.fsencode(DAMAGED[damage]))
    if damage == "empty" and reader in ("calibrate", "conditions"):
        assert READERS[reader](path) == []  # nothing was measured
        return
    with pytest.raises(FileError, match=f"{name} cannot be used: .*Fix: "):
        READERS[reader](path)


def _raises(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (BrokenPipeError(), 141, ""),
        (FileError("x.json cannot be used"), 2, "x.json cannot be used"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (ModuleNotFoundError("No module named 'rich'"), 2, "No module named 'rich'"),
        (MemoryError(), 2, "MemoryError"),
        (SystemExit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_status_and_a_message(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, word: str
) -> None:
    with pytest.raises(SystemExit) as done:
        entry.run(_raises(error))
    assert done.value.code == status
    assert word in capsys.readouterr().err


def test_every_tool_begins_there() -> None:
    """So that none has a way of its own to end."""
    for path in (ROOT / "perf").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text and "def main(" in text:
            assert text.endswith("    entry.run(main)\n"), path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_the_output_of_a_tool_is_full_or_closed() -> None:
    command = [sys.executable, "-m", "perf.report", "--help"]
    nobody, closed = os.pipe()
    os.close(nobody)
    for output, status, word in (
        (os.open("/dev/full", os.O_WRONLY), 2, "No space left"),
        (closed, 141, ""),
    ):
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # argparse passes over what it cannot write
        )
        os.close(output)
        assert done.returncode == status
        assert word in done.stderr
        assert "Traceback" not in done.stderr


def test_write_whole(tmp_path: Path) -> None:
    """Links and pipes stay what they are, and nothing is left of what fails."""
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", json.dumps(1))
    reader.join(10)
    assert got == ["1"]
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "real", "\ud800")
    assert (tmp_path / "real").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "real"]


@pytest.mark.parametrize("name", ["", "a/file/below", "x" * 300, "loop/x", "loop"])
def test_what_cannot_be_written_is_refused_first(tmp_path: Path, name: str) -> None:
    """Before minutes of measuring, not after them; and nothing is left."""
    (tmp_path / "a").write_text("a file")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match="cannot be written: .*Fix: "):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "new/file.json", Path(os.devnull), tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "loop", "new"]
    assert not list((tmp_path / "new").iterdir())
