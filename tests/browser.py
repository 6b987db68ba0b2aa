"""A headless Chromium without a network, for tests of pages.

Every request that leaves the machine is refused and counted as a failure, as is every
failed one and every word on the console that is an error.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A sandbox of its own needs rights that containers do not give; the pages are ours.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Browser:
    """Opens pages and remembers what went wrong on each."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium

    @contextmanager
    def open(self, address: str, **context: Any) -> Iterator[Any]:
        """The page at `address`; leaving asserts that nothing went wrong.

        `context` are playwright's options: ``viewport``, ``color_scheme``, ...
        """
        wrong: list[str] = []
        made = self._chromium.new_context(reduced_motion="reduce", **context)
        try:
            page = made.new_page()
            page.set_default_timeout(60_000)  # beside other work, a page may take 15 s
            page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("requestfailed", lambda r: wrong.append(f"{r.url}: {r.failure}"))
            page.on("response", lambda r: wrong.append(r.url) if r.status >= 400 else None)
            made.route(_leaves_the_machine, lambda route: route.abort())
            page.goto(address)
            yield page
            assert not wrong, "; ".join(wrong)
        finally:
            made.close()


def _leaves_the_machine(address: str) -> bool:
    return not address.startswith(("http://127.0.0.1:", "file:", "data:", "blob:"))


@contextmanager
def start() -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the extra [browser] is not installed"
    )
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=installed, args=[*ARGUMENTS])
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        try:
            yield Browser(chromium)
        finally:
            chromium.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a folder, served on this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the browser has left
                super().handle()

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
