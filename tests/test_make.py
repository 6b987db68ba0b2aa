"""The Makefile: in any folder, with any revision, whatever the environment says.

A stub stands for the interpreter: it prints what it gets, and nothing is installed or run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUB = r"""#!/bin/sh
printf 'CACHE=%s\nSAFE=%s\n' "$NUMBA_CACHE_DIR" "$PYTHONSAFEPATH"
for a in "$@"; do printf '[%s]\n' "$a"; done
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture(params=["tree", "my own code/it's [a] (b) & $c"], ids=["plain", "odd"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkout in which everything is installed."""
    folder = tmp_path / request.param
    binaries = folder / ".venv/bin"
    binaries.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("setup.py", "pyproject.toml", "fastattn/implementations/_native.pyx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    libraries = folder / ".venv-adapters/bin"
    libraries.mkdir(parents=True)
    for where in (binaries, libraries):
        (where / "python").write_text(STUB)
        (where / "python").chmod(0o755)
        (where.parent / ".installed").touch()
    for done in (".bench", ".peers", ".rivals"):
        (folder / ".venv" / done).touch()
    return folder


def _make(tree: Path, *arguments: str, **environment: str) -> list[str]:
    """Lines that the stub prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    done = subprocess.run(
        ["make", "-s", *arguments],
        cwd=tree,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_folder_of_any_name(tree: Path) -> None:
    lines = _make(tree, "test")
    assert f"CACHE={tree}/build/numba-cache" in lines
    assert "[pytest]" in lines
    assert {f"CACHE={tree}/build/numba-cache", "[tests/adapters]"} <= {*_make(tree, "adapters")}
    for target in ("bench", "history", "report", "preview", "roofline", "tuned", "peers", "replay"):
        assert "[-m]" in _make(tree, target), target


@pytest.mark.parametrize(
    "revision",
    [
        *("HEAD~1", "HEAD@{1 day ago}", ":/a word", "topic;>INJECTED", "it's", "a&b", "fix(x)"),
        *("a$b", "$(shell touch INJECTED)", "`touch INJECTED`", "$(error no)", 'a"b', "a\\b", "*"),
    ],
)
def test_a_revision_is_one_word(tree: Path, revision: str) -> None:
    """Given as an argument or in the environment; neither make nor the shell runs a part of it."""
    before = sorted(tree.iterdir())
    for lines in (
        _make(tree, "compare", f"BASE={revision}", f"HEAD={revision}"),
        _make(tree, "compare", BASE=revision, HEAD=revision),
    ):
        assert lines[-4:] == ["[-m]", "[perf.paired]", f"[{revision}]", f"[{revision}]"]
    assert f"[{revision}]" in _make(tree, "bench", f"PROFILE={revision}")
    assert f"[{revision}]" in _make(tree, "history", f"STEPS={revision}")
    assert sorted(tree.iterdir()) == before


def test_a_path_that_is_safe_is_no_trap(tree: Path) -> None:
    """``python -m perf.run`` must find the tools beside the Makefile."""
    assert "SAFE=" in _make(tree, "bench", PYTHONSAFEPATH="1")
