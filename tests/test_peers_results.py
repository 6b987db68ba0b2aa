"""The comparison with other libraries: ratios, files, tables, the picture."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the extra [bench] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from peer_results import LIMITS, entry, synthetic  # noqa: E402

from perf import summary  # noqa: E402
from perf.peers import chart, console, results  # noqa: E402
from perf.peers.results import Entry, Results  # noqa: E402
from perf.summary import Estimate  # noqa: E402


def test_ratios_are_paired() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    ours, theirs = entry("cython", drift), entry("jax", [1.5 * x for x in drift])
    assert results.ratio(theirs, ours) == Estimate(1.5, 1.5, 1.5)
    assert results.ratio(entry("jax", []), ours) is None


def test_the_interval_holds_the_middle() -> None:
    ones = [1.0] * 101
    found = results.ratio(entry("jax", [i / 100 for i in range(101)]), entry("cython", ones))
    assert found == Estimate(pytest.approx(0.5), pytest.approx(0.1), pytest.approx(0.9))


def test_one_sample_has_no_interval() -> None:
    ours = entry("cython", [1.0, 2.0, 3.0])
    assert results.ratio(entry("jax", [8.0], alone=True), ours) == Estimate(4.0, 4.0, 4.0)
    assert summary.spread([2.0]) == Estimate(2.0, 2.0, 2.0)


def test_the_limit_is_the_slower_of_two() -> None:
    assert results.fraction_of_limit(2.0, 10**11, 1, "float32", LIMITS) == (0.5, "compute")
    assert results.fraction_of_limit(2.0, 1, 10**10, "float32", LIMITS) == (0.5, "memory")


def test_geometric_mean_of_what_there_is() -> None:
    assert summary.geometric_mean([Estimate(2, 1, 3), None, Estimate(8, 8, 8)]) == pytest.approx(4)
    assert math.isnan(summary.geometric_mean([None]))


def test_the_fastest_peer_is_none_of_ours() -> None:
    found = synthetic()
    assert found.fastest("small", 1, console.others(found)) == (
        "ort-attention",
        Estimate(*(pytest.approx(0.8),) * 3),
    )
    assert found.fastest("decode", 1, console.others(found))[0] == "ort-attention"
    assert found.fastest("small", 1, []) is None
    assert found.ratio("small", 2, "numpy") is None


def test_results_survive_the_file(tmp_path: Path) -> None:
    found = synthetic()
    found.write(tmp_path / "new" / "file.json")
    assert Results.read(tmp_path / "new" / "file.json") == found
    (tmp_path / "old.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="another format"):
        Results.read(tmp_path / "old.json")


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.render(synthetic()) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "Behind" in printed
    assert [s for s in lines if s.startswith("  small, 1 thread: ort-attention 0.80")]
    assert not [s for s in lines if s.startswith("  decode")]  # behind nobody there
    assert [s for s in lines if "contended small" in s and "50.0 %" in s]
    assert "contended decode" not in printed
    assert "skipped not installed: 'fastattn[peers]': mlx (3 times)" in printed
    assert "not timed jax, small" in printed
    assert "one call of 9.00 s" in printed
    assert "blog, 1 thread: within 1.0e-07 of cython (asked: 1e-06); cython 1.00 ms" in printed
    assert [
        s for s in lines if s.startswith("Forced by the environment: OPENBLAS_CORETYPE=Haswell.")
    ]
    (mean,) = [s.split() for s in lines if s.strip().startswith("float32, 1 thread")]
    best = statistics.geometric_mean([0.8, 1.6, 1.6])
    assert mean[-4:] == ["4.00x", "2.00x", f"{best:.2f}x", "3"]


def test_a_failure_of_ours_is_one_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = synthetic()
    found.entries.append(Entry("vit", 1, "cython", failed="wrong"))
    assert console.render(found) == 2
    assert "not timed cython, vit" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    chart.draw(synthetic(), tmp_path / "folder" / f"map{suffix}")
    assert (tmp_path / "folder" / f"map{suffix}").stat().st_size > 1000
