"""`make preview`: pages on the loopback interface alone."""

from __future__ import annotations

import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from perf import preview


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("the page")
    return tmp_path


def test_pages_are_served_on_loopback_only(pages: Path) -> None:
    with preview.server(pages, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            assert serving.server_address[0] == "127.0.0.1"
            address = f"http://127.0.0.1:{serving.server_port}/index.html"
            assert urllib.request.urlopen(address, timeout=10).read() == b"the page"
        finally:
            serving.shutdown()
            thread.join()


def test_a_taken_port_is_told(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert preview.main(["--port", port, "--folder", str(pages)]) == 2
    out = capsys.readouterr().out
    assert f"Port {port} cannot be used" in out and "--port" in out


def test_no_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview.main(["--folder", str(tmp_path)]) == 1
    assert "make bench" in capsys.readouterr().out
