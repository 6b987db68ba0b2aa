"""What `make bench` makes of asv: its table, its command, what is measured beside the calls."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("asv", reason="the extra [bench] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import bench_memory, bench_overhead, common  # noqa: E402
from benchmarks import conditions as conditions_  # noqa: E402
from benchmarks.common import Case  # noqa: E402
from perf import conditions, report, run  # noqa: E402

# --- The table -------------------------------------------------------------------------


def write_results(folder: Path, times: list[float | None] | None) -> None:
    """Store a result file as asv does: one dim, three implementations, one data type."""
    params = [["64"], ["'numpy'", "'numba'", "'cython'"], ["'float32'"]]
    results = {
        "bench_attention.DimGrid.track_time": [times, params],
        "bench_attention.DimGrid.track_speedup": [[1.0, math.nan, 4.0], params],
    }
    (folder / "here").mkdir()
    (folder / "here" / f"{'a' * 8}-env.json").write_text(
        json.dumps(
            {
                "commit_hash": "a" * 40,
                "params": {"machine": "here"},
                "python": "3.11",
                "result_columns": ["result", "params", "version"],
                "results": results,
            }
        )
    )


def test_table_of_a_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, [1e-3, math.nan, 2.5e-4])
    found = report.load(tmp_path, "a" * 40)
    assert found is not None
    assert found.get("bench_attention.DimGrid.track_time", 64, "cython", "float32") == 2.5e-4
    assert report.render(found) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if " 64 " in line]
    assert row.split() == [
        *("64", "float32", "1.00", "ms", "-", "250", "µs", "-", "4.00x", "-", "-", "-")
    ]


@pytest.mark.parametrize("times", [[1e-3, math.nan, None], None])
def test_a_failed_cell_fails_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: list[float | None] | None
) -> None:
    write_results(tmp_path, times)
    found = report.load(tmp_path, "a" * 40)
    assert found is not None
    assert report.render(found) == 2
    assert "failed bench_attention.DimGrid.track_time" in capsys.readouterr().out


def test_the_table_says_that_the_last_run_was_contended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path, [1e-3, 1e-3, 1e-3])
    for share in (0.0, 0.5):
        case = {"case": "64", "lost_share": share, "steal_share": 0.0, "contended": share > 0.1}
        about = {"facts": [], "measurements": [case], "contended": case["contended"]}
        conditions.store(about, tmp_path, "here", "a" * 40)
        found = report.load(tmp_path, "a" * 40)
        assert found is not None
        assert report.render(found) == 0
        words = "CONTENDED: 1 of 1 measurements"
        assert (words in capsys.readouterr().out) is case["contended"]


def test_results_of_another_commit_do_not_count(tmp_path: Path) -> None:
    write_results(tmp_path, [1e-3, 1e-3, 1e-3])
    assert report.load(tmp_path, "a" * 8 + "b" * 32) is None
    assert report.load(tmp_path, "a" * 40, machine="elsewhere") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2.5, "2.50 s"),
        (0.0123, "12.3 ms"),
        (1.5e-4, "150 µs"),
        (9.9e-9, "9.90 ns"),
        (0.0, "0.00 s"),
    ],
)
def test_seconds_in_words(value: float, words: str) -> None:
    assert report.seconds(value) == words


# --- The command -----------------------------------------------------------------------


def test_machine_is_registered_without_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    name = run.register_machine(None)
    assert re.fullmatch(r"[a-z0-9-]+-\d+-cpus", name)
    assert run.register_machine("mine") == "mine"
    stored = json.loads((tmp_path / ".asv-machine.json").read_text())
    assert set(stored) == {name, "mine", "version"}
    assert set(stored[name]) == {"machine", "os", "arch", "cpu", "num_cpu", "ram"}


@pytest.mark.parametrize("home", [None, "", "/nonexistent"])
def test_a_home_that_cannot_be_used_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    run.ensure_home()
    assert Path(os.environ["HOME"]) == tmp_path / ".asv/home"
    assert os.access(os.environ["HOME"], os.W_OK)


@pytest.mark.timing
def test_lines_of_asv_come_before_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asv ends a line when the next step begins; the bar shows the step that is under way."""
    package = tmp_path / "asv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys, time\n"
        "print('· Discovering benchmarks', end='', flush=True); time.sleep(1)\n"
        "print('\\n[ 50.00%] ··· bench_a.B.track_c  failed'); print('ValueError: no')\n"
        "sys.exit(2)\n"
    )
    monkeypatch.setattr(run, "PAUSE_SECONDS", 0.1)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    seen: list[run.Line] = []
    with (tmp_path / "log").open("w") as log:
        lines = run.asv("run", log=log, environment=environment)
        with pytest.raises(subprocess.CalledProcessError) as error:
            seen.extend(lines)
    assert error.value.returncode == 2
    assert run.Line("· Discovering benchmarks", ended=False) in seen
    ended = [line.text for line in seen if line.ended and line.text]
    assert ended[1:] == ["[ 50.00%] ··· bench_a.B.track_c  failed", "ValueError: no"]
    assert run.STEP.match(ended[1])["percent"] == "50.00"
    assert run.REMARK.match(ended[2])["text"] == "ValueError: no"
    assert run.REMARK.match("RuntimeError: Traceback (most recent call last):") is None

    note = tmp_path / "note"
    note.touch()
    environment[common.PROGRESS_VARIABLE] = str(note)
    with (tmp_path / "log").open("w") as log:
        assert run.measure([], log, environment) == 2
    assert "ValueError: no" in (tmp_path / "log").read_text()


def test_a_fresh_interpreter_that_fails_says_why() -> None:
    assert bench_overhead.run_seconds("print(0.5)") == 0.5
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        bench_overhead.run_seconds("1 / 0")


def test_one_broken_implementation_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warmed = []

    def bind(case: Case, impl: str) -> Callable[[], None]:
        if impl == "numba":
            raise ImportError(impl)
        return lambda: warmed.append(impl)

    monkeypatch.setattr(common, "missing", lambda case, impl: None)
    monkeypatch.setattr(common, "bind", bind)
    bench_memory.warm()
    assert set(warmed) == {"numpy", "cython"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is reset through /proc")
def test_a_peak_is_seen_after_it_is_gone() -> None:
    assert bench_memory._reset_peak()
    before = conditions_.status("VmRSS")
    array = np.ones(32 << 20, np.uint8)
    del array
    assert conditions_.status("VmHWM") - before >= 24 << 10
