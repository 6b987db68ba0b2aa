"""The report: its statistics, its tables and pictures, how it is measured, and its command."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the extra [report] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from study_records import SPEEDUPS, TORCH, synthetic  # noqa: E402

from benchmarks.common import DIMS, IMPLS, MASKED, REGIMES  # noqa: E402
from perf.peers.results import Entry  # noqa: E402
from perf.study import charts, formats, measure, page, picture, published, tables  # noqa: E402
from perf.study.data import Estimate, Record, Round, estimate  # noqa: E402

SMALL = replace(measure.QUICK, dims=(64, 128), rounds=2, regimes=("small",))


# --- Statistics ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "low"), [(1, 1), (2, 1), (5, 1), (6, 1), (8, 1), (9, 2), (20, 6)]
)
def test_the_interval_is_that_of_the_sign_test(count: int, low: int) -> None:
    """Known places of order statistics; fewer than six values give their range."""
    values = list(range(1, count + 1))
    random.Random(0).shuffle(values)
    assert estimate(values) == Estimate(statistics.median(values), low, count + 1 - low)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = random.Random(1)
    held = 0
    for _ in range(2000):
        found = estimate([rng.gauss(0, 1) for _ in range(9)])
        held += found.low <= 0 <= found.high
    assert 0.94 < held / 2000 < 0.98  # exactly 0.961


def test_nothing_has_no_estimate() -> None:
    assert estimate([]) is None
    assert math.isnan(tables.geometric_mean([None]))


def test_a_round_pairs_within_repetitions() -> None:
    one = Round(samples={"numpy": [2.0, 40.0, 6.0], "cython": [1.0, 10.0, 3.0]})
    assert one.ratio("numpy", "cython") == 2.0  # not the ratio of the medians
    assert one.seconds("cython") == 3.0
    assert one.variation("cython") == pytest.approx(statistics.stdev([1, 10, 3]) / (14 / 3))
    assert one.ratio("numpy", "numba") is None
    assert one.seconds("numba") is None
    assert Round(samples={"numpy": [1.0]}).variation("numpy") is None


def test_the_quietest_rounds_count() -> None:
    record = Record({}, wanted=2)
    for others, time in ((0.5, 9.0), (0.0, 1.0), (None, 1.2), (0.01, 5.0)):
        record.rounds.setdefault("64", []).append(Round({"numpy": [time]}, others=others))
    assert [one.samples["numpy"] for one in record.kept(64)] == [[1.0], [1.2]]
    assert record.seconds(64, "numpy") == Estimate(1.1, 1.0, 1.2)
    assert record.contended() == []
    record.wanted = 4
    record.rounds["64"][3].others = 0.2
    assert record.contended() == [64]
    assert record.contention(64) == pytest.approx(0.1)


def test_the_page_says_what_failed_and_what_could_not_run() -> None:
    record = synthetic((64, 128))
    quiet = len(page.warnings(record))
    for dim in (64, 128):
        for one in record.rounds[str(dim)][:2]:
            one.samples.clear()
            one.failures["cython"] = "ArithmeticError: error 9"
    record.rounds["64"][2].reasons["numba"] = "it is not installed"
    record.rounds["256"] = [Round(failures={"cython": "ArithmeticError: error 9"})]
    assert record.dims() == [64, 128]
    failed, missing, few = page.warnings(record)[quiet:]
    assert failed == (
        "Cython failed in 5 processes of dim 64, 128 and 256: ArithmeticError: error 9"
    )
    assert missing == "Numba was not measured: it is not installed."
    left = record.wanted - 2
    assert f"than {record.wanted} processes for a dim: {left} of dim 64 and {left}" in few


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    record = synthetic(rounds=2)
    record.write(tmp_path / "new/data.json")
    assert Record.read(tmp_path / "new/data.json") == record
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data.json"]
    (tmp_path / "old.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="measure again"):
        Record.read(tmp_path / "old.json")


# --- What is shown ---------------------------------------------------------------------


def test_the_study_is_as_printed() -> None:
    """Its speed-ups are those of its times, to what it rounded."""
    assert tuple(published.STUDY) == DIMS
    for row in published.STUDY.values():
        assert row.numpy / row.numba == pytest.approx(row.numba_speedup, abs=0.021)
        assert row.numpy / row.cython == pytest.approx(row.cython_speedup, abs=0.021)


def test_the_answer() -> None:
    record = synthetic()
    assert tables.answer(record) == (
        "Cython (C++ kernels) is the fastest of the three at every dim from 64 to 1024."
    )
    for one in record.rounds["128"]:
        one.samples["cython"] = [9 * s for s in one.samples["cython"]]
    assert "at 6 of 7 dims: 64, 256, 400, 512, 768 and 1024." in tables.answer(record)
    assert tables.answer(synthetic((64,))).endswith("at dim 64.")
    slow = synthetic((64, 128))
    for one in [*slow.rounds["64"], *slow.rounds["128"]]:
        one.samples["cython"] = [9 * s for s in one.samples["cython"]]
    assert tables.answer(slow).endswith("at no dim from 64 to 128.")
    assert tables.answer(Record({}, 9)) == "Nothing was measured yet."


def test_the_facts() -> None:
    over_numpy, over_numba, over_torch = tables.facts(synthetic((64,)))
    assert float(over_numpy.number[:-1]) == pytest.approx(SPEEDUPS["cython"], rel=0.03)
    ratio = SPEEDUPS["cython"] / SPEEDUPS["numba"]
    assert float(over_numba.number[:-1]) == pytest.approx(ratio, rel=0.06)
    assert float(over_torch.number[:-1]) == pytest.approx(TORCH["torch-sdpa"], rel=0.05)
    assert "2 threads" in over_torch.meaning
    assert len(tables.facts(synthetic((64,), torch=False))) == 2
    assert not (over_numpy.contended or over_torch.contended)


def test_facts_of_contended_runs_are_marked() -> None:
    record = synthetic((64, 128), contended=(128,))
    assert [fact.contended for fact in tables.facts(record)] == [True, True, False]
    record = synthetic((64,))
    assert record.peers is not None
    record.peers["others"] = {"2": {"blog": 0.5}}
    assert [fact.contended for fact in tables.facts(record)] == [False, False, True]
    (warning,) = page.warnings(record)
    assert "during the comparison with PyTorch (†)" in warning


def test_table_1() -> None:
    table = tables.table_1(synthetic((64, 256), contended=(256,)))
    assert len(table.columns) == 9
    assert [row[:4] for row in table.rows] == [("64", "f32", "32", "1"), ("256", "f32", "32", "2")]
    found = [float(cell[:-1]) for cell in table.rows[0][7:]]
    assert found == pytest.approx([SPEEDUPS["numba"], SPEEDUPS["cython"]], rel=0.06)
    assert table.marked == {1}
    assert table.best == {(0, 6), (1, 6)}  # Cython


def test_beside_the_study() -> None:
    record = synthetic((64, 100))  # the study has no dim 100
    table = tables.speedups(record)
    assert table.rows[0][3] == "3.13×"
    assert table.rows[0][6] == "0.85×"
    assert table.rows[1][3] == formats.NOTHING
    assert table.rows[2][0] == "mean"
    assert table.rows[2][6] == "0.85×"
    assert [row[0] for row in tables.study_1(record).rows] == ["64"]


def test_torch_tables() -> None:
    one, two = tables.peers(synthetic((64,)))
    assert one.columns[0] == "cell"
    assert [row[0] for at, row in enumerate(two.rows) if at in two.marked] == ["vit"]
    blog = tables.blog(synthetic((64,)))
    assert [row[1] for row in blog.rows] == ["142\u00a0µs", "88.4\u00a0µs", "–", "–"]
    assert tables.blog(synthetic((64,), torch=False)) is None
    record = synthetic((64,))
    kept = [e for e in record.peers["entries"] if e["cell"] != "blog"]
    record.peers["entries"] = kept
    assert tables.blog(record) is None
    record.peers["entries"] = [asdict(Entry("vit", 1, "cython", failed="wrong"))]
    assert set(tables.peers(record)[0].rows[0][1:]) == {formats.NOTHING}


def test_roofline_rows_say_why_there_is_nothing() -> None:
    record = synthetic((64,))
    record.roofline["small"] = {"time": [], "time_over_peak": [], "reason": "it died"}
    rows = {row[0]: row[1:] for row in tables.roofline(record).rows}
    assert rows["small"] == (formats.NOTHING, "it died")
    assert rows["dim-256"] == ("1.00\u00a0ms", "95.0\u00a0%")
    assert len(rows) == len(REGIMES | MASKED)


def test_words() -> None:
    assert formats.times(9.994) == "9.99×"
    assert formats.times(12.34) == "12.3×"
    assert formats.times(math.nan) == formats.times(None) == formats.NOTHING
    assert formats.dtype("bfloat16") == "bf16"
    assert formats.listed(["a"]) == "a"
    assert formats.listed(["a", "b", "c"]) == "a, b and c"
    assert formats.interval(Estimate(2, 1.5, 2.5)) == "1.50 to 2.50"
    assert formats.plural(1, "dim") == "1 dim"


# --- Pictures and pages ----------------------------------------------------------------


def all_charts(record: Record) -> list[picture.Chart]:
    found = [*charts.figure_1(record), *charts.torch(record), *charts.searches(record)]
    return [*found, *filter(None, (charts.roofline(record), charts.all_searches(record)))]


def test_pictures_carry_words_and_both_palettes() -> None:
    pytest.importorskip("matplotlib")
    for chart in all_charts(synthetic((64, 128), rounds=2)):
        drawn = picture.draw(chart)
        inline, alone = (picture.dress(drawn, chart, inline=inline) for inline in (True, False))
        for text in (inline, alone):
            root = ElementTree.fromstring(text)
            assert root.get("role") == "img"
            assert root.get("aria-label") == f"{chart.title}. {chart.text}"
            assert root.get("viewBox")
            assert root.get("width") is None
            assert "var(--ink" in text
            assert "DejaVu" not in text
        assert "<style" not in inline  # it would be one of the whole page
        assert "prefers-color-scheme" in alone
        light = {shade for shade, _ in picture.COLOURS.values()}
        bare = re.sub(r"var\(--[\w-]+, (#\w+)\)", "", inline)
        assert not [shade for shade in light if shade in bare], chart.name


def test_pictures_are_the_same_each_time() -> None:
    pytest.importorskip("matplotlib")
    (one, *_), (two, *_) = (charts.figure_1(synthetic((64,), rounds=2)) for _ in range(2))
    assert picture.draw(one) == picture.draw(two)


def test_the_text_of_a_picture_tells_its_numbers() -> None:
    record = synthetic((64, 1024))
    text = {chart.name: chart.text for chart in all_charts(record)}
    assert f"Cython: {formats.times(record.speedup(64, 'cython'))} at 64" in text["speedup"]
    assert "0.85× at 64, 1.10× at 1024" in text["study-speedup"]
    assert "95.0\u00a0% (dim-256)" in text["roofline"]
    assert "18 evaluations" in text["search-64"]


def test_series_differ_by_more_than_colour() -> None:
    for group in (IMPLS, ("torch-sdpa", "torch-hand", "torch-mha")):
        assert len({picture.STYLES[name]["marker"] for name in group}) == len(group)
    assert len({str(picture.STYLES[name]["linestyle"]) for name in IMPLS}) == len(IMPLS)


def test_pages_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    record = synthetic((64, 128), rounds=2, contended=(64,))
    record.interrupted = True
    record.about["environment"]["OPENBLAS_CORETYPE"] = "Haswell"
    written = page.render(record, tmp_path)
    assert [path.name for path in written] == ["index.html", "report.md"]
    html, markdown = (path.read_text() for path in written)
    assert "A Processor &lt;with&gt; 2 &amp; more CPUs" in html
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", html)
    assert "{{" not in html + markdown
    pictures = re.findall(r"\]\(([\w-]+\.svg)\)", markdown)
    assert len(pictures) == 8
    for name in pictures:
        assert (tmp_path / name).is_file()
        assert (tmp_path / name).with_suffix(".png").stat().st_size > 1000
    for text in (html, markdown):
        assert "was stopped" in text
        assert "1 dim of 2" in text
        assert "A short run" in text
        assert "Forced by the environment: OPENBLAS_CORETYPE=Haswell." in text
    assert "| 64† |" in markdown
    table = markdown[markdown.index("| dim |") :].splitlines()[:4]
    assert len({line.count("|") for line in table}) == 1


def test_a_record_of_nothing_is_shown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    empty = Record(synthetic((64,)).about, 9, interrupted=True)
    html, markdown = (path.read_text() for path in page.render(empty, tmp_path))
    assert html.count("Not measured") == 7
    assert "Nothing was measured yet." in markdown
    without = synthetic((64,), torch=False)
    _, markdown = (path.read_text() for path in page.render(without, tmp_path))
    assert "Not measured: torch is not installed here" in markdown


def test_ways_of_sharing_work_are_compared() -> None:
    record = synthetic((64,))
    shown = tables.sharing(record.sharing["ratios"])
    cells = ("2.00\xa0ms", "1.25× (1.20 to 1.30)") * 2
    assert shown.rows == (("small", *cells), ("bert", *cells))
    assert shown.columns[1:3] == ("pool, idle", "OpenMP over pool, idle")
    record.sharing = {"reason": "the build has no OpenMP"}
    section = next(one for one in page.sections(record) if one.name == "sharing")
    assert section.text == ("Not measured: the build has no OpenMP.",)
    assert not section.tables
