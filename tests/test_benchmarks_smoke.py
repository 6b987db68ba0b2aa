"""One whole run of the asv suite: the smoke profile, its results and its pages."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn

json5 = pytest.importorskip("json5", reason="the extra [bench] is not installed")
pytest.importorskip("asv", reason="the extra [bench] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import common, oracle  # noqa: E402
from perf import report  # noqa: E402

pytestmark = pytest.mark.slow

REGISTER = """
import sys
sys.path.append(sys.argv[1])
from perf import run
run.register_machine("test")
"""
SET = dict.fromkeys(common.BLAS_VARIABLES, "1") | common.UNTUNED


def complaints(
    results: dict[str, Any], discovered: dict[str, Any], may_skip: set[str]
) -> list[str]:
    """What is wrong with a result file: cells that are absent, failed or no numbers.

    Parameters
    ----------
    results : dict
        Result file.
    discovered : dict
        asv's list of benchmarks, by name.
    may_skip : set of str
        Parameter values (implementations) whose cells may hold NaN.
    """
    wrong = []
    for name, benchmark in discovered.items():
        row = dict(zip(results["result_columns"], results["results"].get(name, []), strict=False))
        cells = list(itertools.product(*benchmark["params"]))
        values = row.get("result") or [None] * len(cells)
        if row.get("params", benchmark["params"]) != benchmark["params"] or len(values) != len(
            cells
        ):
            wrong.append(f"{name}: other parameters")
            continue
        for cell, value in zip(cells, values, strict=True):
            skipped = isinstance(value, float) and math.isnan(value)
            if skipped and not may_skip & {text.strip("'") for text in cell}:
                wrong.append(f"{name}{cell}: skipped without a reason")
            elif not skipped and not (isinstance(value, int | float) and math.isfinite(value)):
                wrong.append(f"{name}{cell}: {value}")
    return wrong


def test_complaints_are_made() -> None:
    discovered = {"a": {"params": [["'numpy'", "'cython'"]]}, "b": {"params": []}}
    good = {
        "result_columns": ["result", "params"],
        "results": {"a": [[1.0, 2], [["'numpy'", "'cython'"]]], "b": [[0.5], []]},
    }
    assert complaints(good, discovered, set()) == []

    def with_a(*values: float | None) -> dict[str, Any]:
        return good | {
            "results": good["results"] | {"a": [list(values), [["'numpy'", "'cython'"]]]}
        }

    assert len(complaints(with_a(1.0, None), discovered, {"cython"})) == 1
    assert len(complaints(with_a(1.0, math.inf), discovered, {"cython"})) == 1
    assert len(complaints(with_a(1.0, math.nan), discovered, set())) == 1
    assert len(complaints(with_a(1.0, math.nan), discovered, {"cython"})) == 0
    assert len(complaints(with_a(1.0), discovered, set())) == 1
    assert len(complaints(good | {"results": {}}, discovered, set())) == 3


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which asv ran the smoke profile and published it.

    The installed package is measured in this environment; building one from the commit
    is for ``make bench``.
    """
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if commit.returncode != 0:
        pytest.skip("asv stores results by commit, and this is no git repository with one")
    folder = tmp_path_factory.mktemp("asv")
    changes = {
        "repo": str(ROOT),
        "benchmark_dir": str(ROOT / "benchmarks"),
        "env_dir": str(folder / "env"),
        "results_dir": str(folder / "results"),
        "html_dir": str(folder / "html"),
    }
    configuration = json5.loads((ROOT / "asv.conf.json").read_text())
    (folder / "asv.conf.json").write_text(json.dumps(configuration | changes))
    environment = os.environ | SET | {"HOME": str(folder), common.PROFILE_VARIABLE: "smoke"}
    environment.pop("FASTATTN_ISA", None)
    selected = ("--python=same", "--set-commit-hash", commit.stdout.strip(), "--machine", "test")
    for command in (
        ["-c", REGISTER, str(ROOT)],
        ["-P", "-m", "asv", "run", *selected, "--show-stderr"],
        ["-P", "-m", "asv", "publish"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
    return folder


@pytest.fixture(scope="module")
def results(smoke: Path) -> dict[str, Any]:
    (path,) = (smoke / "results/test").glob("*-*.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def discovered(smoke: Path) -> dict[str, Any]:
    listed = json.loads((smoke / "results/benchmarks.json").read_text())
    return {name: benchmark for name, benchmark in listed.items() if name != "version"}


def test_every_cell_is_a_number_or_was_skipped_for_a_reason(
    results: dict[str, Any], discovered: dict
) -> None:
    unusable = {name for name, reason in fastattn.implementations().items() if reason is not None}
    if "numba" in unusable:
        unusable |= {"empty", "filled"}  # FirstCall is numba's
    if np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        unusable.add("float64")  # nothing to hold it against
    if "cython" in unusable:  # the tuner's benchmark is of its kernels
        discovered = {n: b for n, b in discovered.items() if not n.startswith("bench_tuner.")}
    assert complaints(results, discovered, unusable) == []


def test_the_run_covers_the_suite(results: dict[str, Any], discovered: dict[str, Any]) -> None:
    assert set(results["results"]) == set(discovered)


def test_samples_become_statistics(results: dict[str, Any]) -> None:
    """asv treats a track's samples as a timing's: undocumented, so held here."""
    columns = results["result_columns"]
    for name, row in results["results"].items():
        if name.startswith("bench_attention."):
            values = dict(zip(columns, row, strict=False))
            for value, repeat in zip(values["result"], values["stats_repeat"], strict=True):
                assert math.isnan(value) or repeat == common.PROFILES["smoke"].rounds, name


def test_numbers_mean_what_they_say(smoke: Path, results: dict[str, Any]) -> None:
    found = report.load(smoke / "results", results["commit_hash"])
    assert found is not None
    for name, cells in found.values.items():
        for key, value in cells.items():
            if value is None or math.isnan(value):
                continue
            track = name.rpartition(".")[2]
            if track in ("track_error", "track_extra_memory"):
                assert value >= 0, (name, key)
            else:
                assert value > 0, (name, key)
            if track in ("track_speedup", "track_time_over_numpy") and "numpy" in key:
                assert value == 1.0
            if track == "track_error":
                assert value <= oracle.LIMIT
    for name in ("Regimes", "Masked"):
        for key, over in found.values[f"bench_roofline.{name}.track_time_over_peak"].items():
            assert over is None or math.isnan(over) or over > 0.5, key  # none beats the peak
    grid = "bench_attention.DimGrid"
    for key, time in found.values[f"{grid}.track_time"].items():
        baseline = found.get(f"{grid}.track_time", key[0], "numpy", key[2])
        speedup = found.get(f"{grid}.track_speedup", *key)
        if time is None or math.isnan(time):
            continue
        # The median of ratios is not the ratio of medians, least of all beside other tests, but
        # not another thing either.
        assert 1 / 4 < baseline / time / speedup < 4, key
    if fastattn.implementations()["numba"] is None:
        first = found.values["bench_overhead.FirstCall.track_time"]
        assert first["empty", "float32"] > 2 * first["filled", "float32"]


def test_the_report_of_the_run(
    smoke: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = report.load(smoke / "results", results["commit_hash"])
    assert found is not None
    assert report.render(found) == 0
    printed = capsys.readouterr().out
    assert {"float32", "float64", "small", "smallest"} <= set(printed.split())


def test_pages_are_published(smoke: Path, discovered: dict[str, Any]) -> None:
    index = json.loads((smoke / "html/index.json").read_text())
    assert set(index["benchmarks"]) == set(discovered)
    assert index["params"]["branch"] == ["HEAD"]
    graphs = {path.stem for path in (smoke / "html/graphs").rglob("*.json")}
    assert set(discovered) <= graphs
