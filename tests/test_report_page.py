"""The report in a browser without a network: light, dark, on a phone, and to a screen reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest

pytest.importorskip("jinja2", reason="the extra [report] is not installed")
pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
pytest.importorskip("rich", reason="the extra [report] is not installed")

ROOT = Path(__file__).resolve().parent.parent
from study_records import synthetic  # noqa: E402

from benchmarks.common import DIMS, MASKED, REGIMES  # noqa: E402
from perf.study import page as pages  # noqa: E402

pytestmark = pytest.mark.slow

DESK, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK, "color_scheme": "light"},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "is_mobile": True},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page, from a file: it needs no server."""
    folder = tmp_path_factory.mktemp("report")
    pages.render(synthetic(contended=(128,)), folder)
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.start() as started:
        yield started


@pytest.fixture(params=VIEWS)
def shown(request: pytest.FixtureRequest, chromium: browser.Browser, address: str) -> Iterator[Any]:
    """The page with everything unfolded, in each view."""
    with chromium.open(address, **VIEWS[request.param]) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        yield page


def test_nothing_is_wider_than_the_screen(shown: Any) -> None:
    screen = shown.viewport_size["width"]  # what a phone takes for its width grows with the page
    assert shown.evaluate("document.documentElement.scrollWidth") == screen
    outside = shown.evaluate(
        """screen => [...document.querySelectorAll('body *')]
            .filter(one => !one.parentElement.closest('.scroll') && !one.closest('svg'))
            .filter(one => one.getBoundingClientRect().right > screen + 0.5)
            .map(one => one.outerHTML.slice(0, 80))""",
        screen,
    )
    assert outside == []


def test_wide_tables_scroll_by_themselves(chromium: browser.Browser, address: str) -> None:
    with chromium.open(address, **VIEWS["phone"]) as page:
        wide = page.evaluate(
            """() => [...document.querySelectorAll('.scroll')]
                .filter(one => one.scrollWidth > one.clientWidth)
                .map(one => [one.tabIndex, one.getAttribute('role'), one.ariaLabel.length > 0])"""
        )
        assert wide
        assert {tuple(one) for one in wide} == {(0, "region", True)}  # by keyboard too


def test_words_of_pictures_are_inside_them(shown: Any) -> None:
    outside = shown.evaluate(
        """() => [...document.querySelectorAll('svg text')].filter(text => {
            const inner = text.getBoundingClientRect()
            const outer = text.closest('svg').getBoundingClientRect()
            return inner.left < outer.left - 1 || inner.right > outer.right + 1
                || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1
        }).map(text => text.textContent)"""
    )
    assert outside == []


def test_words_of_pictures_do_not_overlap(shown: Any) -> None:
    overlapping = shown.evaluate(
        """() => [...document.querySelectorAll('svg')].flatMap(svg => {
            const boxes = [...svg.querySelectorAll('text')].map(
                text => [text.textContent, text.getBoundingClientRect()])
            return boxes.flatMap(([a, one], i) => boxes.slice(i + 1)
                .filter(([b, other]) => Math.min(one.right, other.right)
                    - Math.max(one.left, other.left) > 1
                    && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3)
                .map(([b, _]) => [svg.ariaLabel.slice(0, 30), a, b]))
        })"""
    )
    assert overlapping == []


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(...)``, as WCAG has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)


def test_words_stand_out_from_the_paper(shown: Any) -> None:
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    colours = shown.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('body *')]
            .filter(one => [...one.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
            .map(one => [getComputedStyle(one)[one.closest('svg') ? 'fill' : 'color'],
                         one.outerHTML.slice(0, 80)]))"""
    )
    assert len(colours) >= 3
    weak = {c: where for c, where in colours.items() if contrast(c, paper) < 4.5}
    assert weak == {}
    lines = shown.evaluate(
        """() => [...new Set(['stroke', 'fill'].flatMap(what =>
            ['numpy', 'numba', 'cython'].flatMap(impl =>
                [...document.querySelectorAll(`svg [style*="${what}: var(--${impl}"]`)]
                    .map(one => getComputedStyle(one)[what]))))]"""
    )
    assert len(lines) >= 3
    assert all(contrast(colour, paper) >= 3 for colour in lines), lines


def test_dark_is_dark(chromium: browser.Browser, address: str) -> None:
    papers = {}
    for view in ("light", "dark"):
        with chromium.open(address, **VIEWS[view]) as page:
            found = page.evaluate("getComputedStyle(document.body).backgroundColor")
            papers[view] = luminance(found)
    assert papers["dark"] < 0.05 < 0.9 < papers["light"]


def test_what_a_screen_reader_meets(chromium: browser.Browser, address: str) -> None:
    with chromium.open(address, **VIEWS["light"]) as page:
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("document.scripts.length") == 0
        for landmark in ("header", "nav", "main", "footer", "h1"):
            assert page.locator(f"body {landmark}").count() == 1, landmark
        headings = page.evaluate(
            "() => [...document.querySelectorAll('h1,h2,h3,h4')].map(one => Number(one.tagName[1]))"
        )
        assert headings == [1] + [2] * (len(headings) - 1)
        pictures = page.locator("svg").count()
        assert page.locator("svg[role=img][aria-label]").count() == pictures > len(DIMS)
        tables = page.locator("table").count()
        assert page.locator("table > caption").count() == tables
        rows = page.locator("tbody tr").count()
        assert page.locator("tbody tr > th[scope=row]").count() == rows > 0
        targets = page.evaluate(
            """() => [...document.querySelectorAll('nav a')]
                .filter(one => !document.querySelector(one.getAttribute('href'))).length"""
        )
        assert targets == 0
        twice = page.evaluate(
            """() => { const ids = [...document.querySelectorAll('[id]')].map(one => one.id)
                       return ids.filter((id, at) => ids.indexOf(id) != at) }"""
        )
        assert twice == []
        lost = page.evaluate(
            """() => [...document.querySelectorAll('svg use')]
                .filter(one => !document.querySelector(one.href.baseVal)).length"""
        )
        assert lost == 0


def test_every_number_is_there(shown: Any) -> None:
    rows = shown.locator("#table-1 tbody tr").all_inner_texts()
    assert [re.match(r"\d+", row)[0] for row in rows] == [str(dim) for dim in DIMS]
    assert "3.0" in rows[0]  # the speed-up that the record was made with
    names = shown.locator("#roofline tbody th").all_inner_texts()
    assert names == [*REGIMES, *MASKED]
    assert "†" in rows[1]
    assert "†" not in rows[0]
    assert shown.locator("header .warning").count() == 1
