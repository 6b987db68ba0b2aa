"""The scripts of the published pages: what is fetched, held to a hash, and rewritten."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
from perf import vendor  # noqa: E402
from perf.vendor import PACKAGES, REFERENCES, Package, VendorError  # noqa: E402

PAGE = """<!doctype html>
<script src="https://a.example/x/jquery-3.3.1.min.js" integrity="sha256-A=" crossorigin="anonymous"
  referrerpolicy="no-referrer" onerror="failed()"></script>
<link rel="stylesheet" href="//b.example/bootstrap.min.css" integrity="sha256-B=">
<script src="asv.js"></script>
<a href="https://c.example/">elsewhere</a>
"""


def packed(files: dict[str, bytes]) -> bytes:
    """A package as npm packs it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Packages with the names and files of ours, and their own hashes."""
    contents, packages = {}, []
    for package in PACKAGES:
        content = packed({member: f"/* {member} */".encode() for member in package.files})
        contents[package.name] = content
        found = base64.b64encode(hashlib.sha512(content).digest()).decode()
        packages.append(Package(package.name, found, package.files))
    monkeypatch.setattr(vendor, "PACKAGES", tuple(packages))
    return contents


def test_every_reference_is_in_a_package() -> None:
    files = {path for package in PACKAGES for path in package.files.values()}
    assert set(REFERENCES.values()) <= files
    assert all(len(base64.b64decode(package.sha512)) == 64 for package in PACKAGES)
    assert all("@" in package.name for package in PACKAGES)  # pinned


def test_what_asv_asks_for_is_known() -> None:
    """asv's own page, of the version in use."""
    asv = pytest.importorskip("asv", reason="the extra [bench] is not installed")
    page = (Path(asv.__file__).parent / "www/index.html").read_text()
    assert page.count('src="https://') == 9
    rewritten = vendor.rewrite(page)
    assert 'src="http' not in rewritten
    assert "integrity" not in rewritten
    assert rewritten.count(f'src="{vendor.FOLDER}/') == 9


def test_a_page_is_rewritten() -> None:
    page = vendor.rewrite(PAGE)
    assert '<script src="vendor/jquery.min.js" onerror="failed()">' in page
    assert '<link rel="stylesheet" href="vendor/bootstrap/css/bootstrap.min.css">' in page
    assert '<script src="asv.js">' in page
    assert 'href="https://c.example/"' in page  # a link is followed, not loaded
    assert vendor.rewrite(page) == page


def test_an_unknown_reference_is_named() -> None:
    with pytest.raises(VendorError, match=r"https://a\.example/new\.js"):
        vendor.rewrite('<script src="https://a.example/new.js"></script>')


def test_pages_are_localised(tmp_path: Path, registry: dict[str, bytes]) -> None:
    pages, cache = tmp_path / "html", tmp_path / "cache"
    pages.mkdir()
    (pages / "index.html").write_text(PAGE)
    asked = []

    def download(package: Package) -> bytes:
        asked.append(package.name)
        return registry[package.name]

    vendor.fetch(cache, download)
    assert asked == list(registry)
    vendor.fetch(cache, download)
    assert asked == list(registry)  # kept
    assert vendor.outside(pages)
    vendor.localise(pages, cache)
    vendor.localise(pages, cache)
    assert vendor.outside(pages) == []
    assert (pages / "vendor/jquery.min.js").read_text() == "/* dist/jquery.min.js */"


def test_a_package_with_another_hash_is_refused(tmp_path: Path, registry: dict[str, bytes]) -> None:
    with pytest.raises(VendorError, match="sha512"):
        vendor.fetch(tmp_path, lambda package: registry[package.name] + b"x")
    assert not list(tmp_path.rglob("*.js"))


@pytest.mark.parametrize(
    "style",
    [
        "a{background:url(https://a.example/b.png)}",
        "@import 'https://a.example/b.css';",
        '@font-face{src:url("../absent.woff?x#y")}',
    ],
)
def test_a_stylesheet_that_loads_from_elsewhere_is_seen(
    tmp_path: Path, registry: dict[str, bytes], style: str
) -> None:
    (tmp_path / "index.html").write_text(PAGE)
    vendor.fetch(tmp_path / "cache", lambda package: registry[package.name])
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text(PAGE)
    (pages / "a.css").write_text("a{background:url(data:,)}" + style)
    with pytest.raises(VendorError, match=r"a\.css"):
        vendor.localise(pages, tmp_path / "cache")


def _npm(monkeypatch: pytest.MonkeyPatch, code: int, files: int) -> list[Any]:
    """An npm that leaves so many files."""
    seen: list[Any] = []

    def run(command: list[str], cwd: str, **others: Any) -> Any:
        seen.append(command)
        for number in range(files):
            Path(cwd, f"{number}.tgz").write_bytes(b"content")
        return subprocess.CompletedProcess(command, code, "", "npm error code E404\nmore")

    monkeypatch.setattr(vendor.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(vendor.subprocess, "run", run)
    return seen


def test_npm_is_asked_for_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _npm(monkeypatch, 0, 1)
    assert vendor.pack(PACKAGES[0]) == b"content"
    assert seen[0][:2] == ["/bin/npm", "pack"]
    assert seen[0][-1] == "jquery@3.3.1"


def test_why_npm_gave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _npm(monkeypatch, 1, 0)
    with pytest.raises(VendorError, match=r"no jquery@3\.3\.1: npm error code E404$"):
        vendor.pack(PACKAGES[0])
    _npm(monkeypatch, 0, 2)
    with pytest.raises(VendorError, match="npm gave no"):
        vendor.pack(PACKAGES[0])

    def late(*arguments: Any, **others: Any) -> Any:
        raise subprocess.TimeoutExpired("npm", 1)

    monkeypatch.setattr(vendor.subprocess, "run", late)
    with pytest.raises(VendorError, match="in 120 s"):
        vendor.pack(PACKAGES[0])
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    with pytest.raises(VendorError, match="npm is not installed"):
        vendor.pack(PACKAGES[0])


def test_the_command(
    tmp_path: Path,
    registry: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pages, cache = tmp_path / "html", tmp_path / "cache"
    arguments = ["vendor", "--pages", str(pages), "--cache", str(cache)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    assert vendor.main() == 1
    assert "npm is not installed" in capsys.readouterr().out
    vendor.fetch(cache, lambda package: registry[package.name])
    assert vendor.main() == 0
    assert "Scripts for the pages are in" in capsys.readouterr().out
    pages.mkdir()
    (pages / "index.html").write_text(PAGE)
    assert vendor.main() == 0
    assert "needs no network" in capsys.readouterr().out
    assert vendor.outside(pages) == []
