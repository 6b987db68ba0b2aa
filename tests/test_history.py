"""History: which commits, what stands in the table, and what asv makes of the ratios."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from processes import publish

from benchmarks import baselines, bench_history, common, roofline
from benchmarks.common import Case
from perf import history, report, run

ROOT = Path(run.__file__).resolve().parent.parent


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")}  # fmt: skip
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=os.environ | identity | {"GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def commit(folder: Path, path: str) -> str:
    """Change a file and commit it."""
    file = folder / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{random.random()}")
    git(folder, "add", path)
    git(folder, "commit", "-qm", f"change {path}")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-qb", "main")
    return folder


# --- Commits and table -----------------------------------------------------------------


def test_commits_are_those_that_change_code(repository: Path) -> None:
    """Not what was merged, commit by commit, but the merge."""
    first = commit(repository, "src_cpp/driver.cpp")
    commit(repository, "benchmarks/common.py")
    setup = commit(repository, "setup.py")
    git(repository, "checkout", "-qb", "side")
    commit(repository, "fastattn/a.py")
    commit(repository, "fastattn/b.py")
    git(repository, "checkout", "-q", "main")
    commit(repository, "README.md")
    git(repository, "merge", "-q", "--no-ff", "side", "-m", "merge")
    merge = git(repository, "rev-parse", "HEAD")
    commit(repository, "CHANGELOG.md")
    last = commit(repository, "pyproject.toml")
    assert history.commits(10, folder=repository) == [first, setup, merge, last]
    assert history.commits(2, folder=repository) == [merge, last]
    with pytest.raises(ValueError, match="--branch HEAD"):
        history.commits(2, "nowhere", repository)


def test_the_table_tells_changes() -> None:
    series = {
        "a" * 40: {"dim-256 cython": 0.5, "decode cython": 1.0},
        "b" * 40: {},
        "e" * 40: {"dim-256 cython": None, "decode cython": None},
        "c" * 40: {"dim-256 cython": 0.51, "decode cython": None},
        "d" * 40: {"dim-256 cython": 0.6, "decode cython": math.nan},
    }
    lines = history.table(series, dict.fromkeys(series, "why")).splitlines()
    assert lines[0].split() == ["commit", "dim-256", "cython", "decode", "cython"]
    assert lines[1].split() == ["aaaaaaaa", "0.500", "1.000", "why"]
    assert lines[2].startswith("bbbbbbbb")
    assert lines[3].startswith("eeeeeeee")
    assert "does not build" in lines[2]
    assert "does not build" in lines[3]
    assert lines[4].split() == ["cccccccc", "0.510", "failed", "why"]
    assert lines[5].split() == ["dddddddd", "0.600", "(+18", "%)", "-", "why"]


def test_values_of_another_version_are_none(tmp_path: Path) -> None:
    store(tmp_path, "here", "a" * 40, 0, [1.5, 64.0, 1.0])
    assert history.values("a" * 40, "here", tmp_path) == {}  # it is of version 1
    path = tmp_path / "here/aaaaaaaa-virtualenv.json"
    path.write_text(path.read_text().replace('"1"]', f'"{bench_history.VERSION}"]'))
    assert history.values("a" * 40, "here", tmp_path) == {"": 1.5}
    assert history.values("b" * 40, "here", tmp_path) == {}


def test_the_command(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured is not measured again; a commit that does not build is passed over."""
    hashes = [commit(repository, "setup.py") for _ in range(3)]
    whole: dict[str, float | None] = dict.fromkeys(history.expected(), 1.0)
    stored = {hashes[0]: whole}
    asked = []

    def measure(commit: str, arguments: list[str]) -> int:
        asked.append(commit)
        assert arguments == ["--bench", "bench_history"]
        if commit == hashes[2]:
            stored[commit] = whole | {"decode cython": 1.2}
        return 0

    @contextlib.contextmanager
    def session(machine: str | None) -> Iterator[Any]:
        yield SimpleNamespace(machine="here", measure=measure, publish=lambda: 0)

    commits = history.commits
    monkeypatch.chdir(repository)
    monkeypatch.setattr(run, "session", session)
    monkeypatch.setattr(history, "commits", lambda n, branch: commits(n, branch, repository))
    monkeypatch.setattr(history, "values", lambda commit, machine: stored.get(commit, {}))
    assert history.main(["3"]) == 2
    assert asked == hashes[1:]
    printed = capsys.readouterr().out
    assert f"{hashes[1][:8]} was passed over: it does not build" in printed
    assert "(+20 %)" in printed
    assert history.main(["1", "--again"]) == 0
    assert asked == [*hashes[1:], hashes[2]]
    with pytest.raises(SystemExit):
        history.main(["1", "--branch", "nowhere"])
    del stored[hashes[2]]["decode cython"]  # as where a regime is new
    assert history.main(["1"]) == 0
    assert asked[3:] == [hashes[2]]

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "_measure", interrupted)
    assert history.main(["1"]) == 130


# --- Controls --------------------------------------------------------------------------


@pytest.mark.parametrize("name", common.HISTORY)
def test_a_control_does_like_work(name: str) -> None:
    """So many calls of it are the multiplications, or the bytes, of one call of the case."""
    case = common.HISTORY[name]
    if case.length_q == 1:
        numbers = roofline.bytes_read(case) // case.itemsize
        assert baselines.baseline(case)[1] == 1
        assert baselines.baseline(case)[0]() == pytest.approx(numbers, rel=0.01)
    else:
        small = replace(case, batch=1, heads_q=1, heads_kv=1)
        call, times = baselines.baseline(small)
        call()
        rows, keys = min(128, case.length_q), min(512, case.length_k)
        assert times == case.length_q * case.length_k / (rows * keys)


def test_a_control_computes_weights() -> None:
    case = Case(1, 1, 1, 8, 8, 4)
    call, times = baselines.baseline(case)
    call()
    q, k, v = (array[0, 0] for array in common.inputs(case))
    result = dict(zip(call.__code__.co_freevars, call.__closure__, strict=True))["result"]
    expected = np.exp(q @ k.T / 2) @ v
    assert np.allclose(result.cell_contents, expected, rtol=1e-5)
    assert times == 1


def test_a_round_against_the_baseline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline itself has the ratio 1."""
    for name in common.BLAS_VARIABLES:
        monkeypatch.setenv(name, "1")
    case = Case(1, 1, 1, 64, 64, 64)
    baseline, times = baselines.baseline(case)
    monkeypatch.setattr(
        baselines.sampling,
        "checked",
        lambda *_: ({"x": baseline}, {"x": {}, "no": {"skipped": ""}}),
    )
    profile = replace(
        common.PROFILES["smoke"], repetitions=20, budget_seconds=0.2, block_seconds=0.002
    )
    request = {"case": asdict(case), "impls": ["x", "no"], "profile": asdict(profile)}
    ratios = []
    for seed in range(10):  # other load only ever adds time, and not to both sides at once
        baselines.child(json.dumps(request | {"seed": seed, "threads": 1}))
        found = json.loads(capsys.readouterr().out)
        assert found["no"] == {"skipped": ""}
        ratios.append(found["x"]["time_over_baseline"])
        if ratios[-1] == pytest.approx(1, rel=0.2):
            return
    raise AssertionError(f"ratios {ratios}")


def test_rounds_are_those_of_history(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(baselines.sampling, "measure", lambda *arguments: seen.append(arguments))
    baselines.measure({}, ("cython",), common.PROFILES["full"])
    (_, impls, profile, module), = seen  # fmt: skip
    assert (impls, profile.rounds, module) == (("cython",), 12, "benchmarks.baselines")
    smoke = common.PROFILES["smoke"]
    baselines.measure({}, ("cython",), smoke)
    assert seen[1][2].budget_seconds == smoke.budget_seconds
    assert bench_history.Ratios.cases(common.PROFILES["full"]).keys() == set(common.HISTORY)


# --- What asv makes of it --------------------------------------------------------------

TRACKS = (history.BENCHMARK, "bench_tuner.Genetic.track_block", "bench_roofline.Regimes.track_x")


def store(folder: Path, machine: str, commit: str, date: int, values: list[float]) -> None:
    """A result file as asv writes it."""
    (folder / machine).mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine, "os": "Linux", "arch": "x86_64", "cpu": machine, "ram": "1",
             "num_cpu": "2"}  # fmt: skip
    (folder / machine / "machine.json").write_text(json.dumps(facts | {"version": 1}))
    content = {
        "commit_hash": commit,
        "env_name": "virtualenv",
        "date": date,
        "params": facts | {"python": "3.11"},
        "python": "3.11",
        "requirements": {},
        "env_vars": {},
        "result_columns": ["result", "params", "version"],
        "results": {name: [[v], [], "1"] for name, v in zip(TRACKS, values, strict=True)},
        "durations": {},
        "version": 2,
    }
    (folder / machine / f"{commit[:8]}-virtualenv.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_pages_show_all_machines_and_find_a_step(repository: Path, tmp_path: Path) -> None:
    """Noise of 1 %, a step of 10 %: on the regressions page, on both machines.

    The configuration that a tuner chose is no regression, nor is what its threshold lets pass.
    """
    json5 = pytest.importorskip("json5", reason="the extra [bench] is not installed")
    hashes = [commit(repository, "setup.py") for _ in range(16)]
    results, rng = tmp_path / "results", random.Random(5)
    for machine in ("one", "two"):
        for index, commit_hash in enumerate(hashes):
            slower = 1.1 if index >= 10 else 1.0
            date = 1000 * int(git(repository, "show", "-s", "--format=%ct", commit_hash))
            noise = 0.9 * math.exp(rng.gauss(0, 0.01))
            store(results, machine, commit_hash, date, [noise * slower, 64 * slower, slower])
    benchmark = {"code": "", "param_names": [], "params": [], "type": "track", "unit": "times"}
    listed = {name: benchmark | {"name": name, "version": "1"} for name in TRACKS}
    (results / "benchmarks.json").write_text(json.dumps(listed | {"version": 2}))
    configuration = json5.loads((ROOT / "asv.conf.json").read_text())
    paths = {"repo": str(repository), "results_dir": str(results), "html_dir": str(tmp_path / "h")}
    (tmp_path / "asv.conf.json").write_text(json.dumps(configuration | paths))
    publish(tmp_path)
    index = json.loads((tmp_path / "h/index.json").read_text())
    assert set(index["params"]["machine"]) == {"one", "two"}
    found = json.loads((tmp_path / "h/regressions.json").read_text())["regressions"]
    assert {(entry[0], entry[2]["machine"]) for entry in found} == {
        (history.BENCHMARK, "one"),
        (history.BENCHMARK, "two"),
    }
    values = report.load(results, hashes[0], "one")
    assert values is not None
