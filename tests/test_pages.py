"""The published asv site in a browser without a network: what it shows, not only that it loads.

The site is made of results that are made up: a dozen commits, the last of which are slower.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import browser
import pytest
from processes import publish

json5 = pytest.importorskip("json5", reason="the extra [bench] is not installed")
pytest.importorskip("asv", reason="the extra [bench] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import common  # noqa: E402
from perf import vendor  # noqa: E402

pytestmark = pytest.mark.slow

COMMITS, SLOWER_FROM, SLOWER = 12, 7, 1.5
MACHINE = {"machine": "test", "arch": "x86", "cpu": "A CPU", "num_cpu": "2", "os": "Linux"}
GRID = "bench_attention.DimGrid"
SECONDS = {"'numpy'": 4e-3, "'numba'": 2e-3, "'cython'": 1e-3}
DISCOVER = """
import json, sys
from asv_runner.discovery import disc_benchmarks, update_sys_path
update_sys_path(sys.argv[1])
fields = ("name", "type", "unit", "params", "param_names", "version", "code", "timeout",
          "pretty_name", "setup_cache_key")
print(json.dumps([
    {name: getattr(one, name) for name in fields if hasattr(one, name)}
    for one in disc_benchmarks(sys.argv[1])
]))
"""


def value(name: str, params: tuple[str, ...], commit: int) -> float:
    """A result that tells where it comes from."""
    dim = next((int(p) for p in params if p.isdigit()), 100)
    seconds = next((SECONDS[p] for p in params if p in SECONDS), 1e-3) * dim / 64
    slower = SLOWER if name == f"{GRID}.track_time_over_numpy" and commit >= SLOWER_FROM else 1.0
    return seconds * slower * (1 + 0.001 * (commit % 3))


def _discovered() -> list[dict[str, Any]]:
    """What asv finds in the suite."""
    command = [sys.executable, "-c", DISCOVER, str(ROOT / "benchmarks")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _repository(folder: Path) -> list[str]:
    """A repository of empty commits, a day apart; their hashes, oldest first."""

    def git(*arguments: str, day: int = 1) -> str:
        at = f"2025-01-{day:02d}T12:00:00+0000"
        variables = {"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    folder.mkdir()
    git("init", "--quiet")
    hashes = []
    for day in range(1, COMMITS + 1):
        git("commit", "--quiet", "--allow-empty", "-m", f"commit {day}", day=day)
        hashes.append(git("rev-parse", "HEAD"))
    return hashes


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [one["name"] for one in _discovered()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published pages, made to need no network."""
    from asv.results import Results
    from asv.runner import BenchmarkResult

    folder = tmp_path_factory.mktemp("site")
    hashes = _repository(folder / "repository")
    found = _discovered()
    (folder / "results/test").mkdir(parents=True)
    listing = {one["name"]: one for one in found} | {"version": 2}
    (folder / "results/benchmarks.json").write_text(json.dumps(listing))
    (folder / "results/test/machine.json").write_text(json.dumps(MACHINE | {"version": 1}))
    for number, commit in enumerate(hashes):
        day = datetime.datetime(2025, 1, number + 1, tzinfo=datetime.UTC)
        date = int(1000 * day.timestamp())
        results = Results(MACHINE | {"python": "3.11"}, {}, commit, date, "3.11", "env", {})
        for one in found:
            cells = list(itertools.product(*one["params"]))
            values = [value(one["name"], cell, number) for cell in cells]
            none = [None] * len(cells)
            results.add_result(one, BenchmarkResult(values, none, none, 0, "", b""), day)
        results.save(str(folder / "results"))
    configuration = json5.loads((ROOT / "asv.conf.json").read_text())
    changes = {
        "repo": str(folder / "repository"),
        "benchmark_dir": str(ROOT / "benchmarks"),
        "results_dir": str(folder / "results"),
        "html_dir": str(folder / "html"),
    }
    (folder / "asv.conf.json").write_text(json.dumps(configuration | changes))
    publish(folder)
    try:
        vendor.fetch(ROOT / vendor.CACHE)
    except vendor.VendorError as error:
        pytest.skip(f"the pages' scripts cannot be had: {error}")
    vendor.localise(folder / "html", ROOT / vendor.CACHE)
    return folder / "html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.start() as started:
        yield started


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with browser.served(site) as found:
        yield f"{found}/index.html"


def graph(page: Any) -> dict[str, Any]:
    """What the graph shows: label -> points; and whether its canvas is painted on."""
    page.wait_for_function(
        "() => ($('#main-graph').data('plot') || {getData: () => []}).getData().length > 0"
    )
    return page.evaluate(
        """() => {
            const canvas = document.querySelector('#main-graph canvas.flot-base')
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
            const series = $('#main-graph').data('plot').getData()
            return {
                painted: pixels.data.filter((value, i) => i % 4 == 3 && value > 0).length,
                width: canvas.width,
                lines: Object.fromEntries(series.map(
                    one => [one.label, one.data.map(point => [point[0], point[1]])])),
                ticks: series[0].xaxis.ticks.map(tick => tick.label),
            }
        }"""
    )  # fmt: skip


def test_nothing_is_left_of_other_hosts(site: Path) -> None:
    assert vendor.outside(site) == []


def test_the_grid_shows_every_benchmark(
    chromium: browser.Browser, address: str, names: list[str]
) -> None:
    with chromium.open(address) as page:
        page.wait_for_selector("#summarygrid-display .benchmark-container, .benchmark-plot")
        shown = page.locator("#summarygrid-display .benchmark-text").all_inner_texts()
        assert sorted(shown) == sorted(name.partition(".")[2] for name in names)
        # Pictures are drawn when they come into sight.
        page.wait_for_function(
            "() => document.querySelectorAll('#summarygrid-display canvas').length > 3"
        )


def test_time_over_dim_compares_the_implementations(
    chromium: browser.Browser, address: str
) -> None:
    wanted = [("x-axis", "dim"), *(("p-impl", impl) for impl in SECONDS)]
    wanted.append(("p-dtype", "'float32'"))
    with chromium.open(f"{address}#{GRID}.track_time?{urlencode(wanted)}") as page:
        found = graph(page)
    assert len(found["lines"]) == len(SECONDS)
    last = COMMITS - 1
    for impl in SECONDS:
        (points,) = [p for label, p in found["lines"].items() if impl.strip("'") in label]
        expected = [value("", (str(dim), impl), last) for dim in common.DIMS]
        assert [y for _, y in points] == pytest.approx(expected, rel=1e-6)
    assert found["painted"] > found["width"]  # more than a frame's edge


def test_time_over_commits(chromium: browser.Browser, address: str) -> None:
    wanted = [("p-dim", "256"), ("p-impl", "'cython'"), ("p-dtype", "'float32'")]
    with chromium.open(f"{address}#{GRID}.track_time_over_numpy?{urlencode(wanted)}") as page:
        found = graph(page)
    (points,) = found["lines"].values()
    assert len(points) == COMMITS
    assert points[-1][1] / points[0][1] == pytest.approx(SLOWER, rel=0.01)


def test_the_tuning_track_shows_its_values(
    chromium: browser.Browser, address: str, names: list[str]
) -> None:
    """Of the tuner, where the suite has it; else one that is as much no time."""
    tuner = [name for name in names if name.startswith("bench_tuner.")]
    name = next(iter(tuner), f"{GRID}.track_variation")
    with chromium.open(f"{address}#{name}") as page:
        found = graph(page)
    assert found["lines"]
    assert all(len(points) == COMMITS for points in found["lines"].values())


def test_the_regressions_page_lists_what_became_slower(
    chromium: browser.Browser, address: str
) -> None:
    with chromium.open(f"{address}#regressions") as page:
        page.wait_for_selector("#regressions-body table tbody tr")
        rows = page.locator("#regressions-body table tbody tr").all_inner_texts()
        assert any(f"{GRID}.track_time_over_numpy" in row and "1.50x" in row for row in rows), rows
        assert not [row for row in rows if "track_speedup" in row]
        page.locator("#regressions-body th", has_text="Factor").first.click()  # the sorting script
        page.wait_for_selector("#regressions-body th.asc, #regressions-body th.desc")


def test_the_list_of_benchmarks(chromium: browser.Browser, address: str) -> None:
    with chromium.open(f"{address}#summarylist") as page:
        page.wait_for_selector("#summarylist-body tbody tr")
        assert f"{GRID}.track_time" in page.inner_text("#summarylist-body")


def test_a_request_that_leaves_the_machine_is_a_failure(
    chromium: browser.Browser, tmp_path: Path
) -> None:
    page = tmp_path / "index.html"
    page.write_text('<!doctype html><script src="https://example.invalid/a.js"></script>')
    with pytest.raises(AssertionError, match=r"example\.invalid"), chromium.open(page.as_uri()):
        pass
