"""Python processes of their own, for what would take the tests down with it or is per process.

`Command` is what the fixture `command` gives: a command run in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., tuple[int, str, str]]


def run_python(code: str, *arguments: str, timeout_seconds: float = 600, **environment: str) -> str:
    """Standard output of `code` in a fresh interpreter; its failure, crash or hang is ours."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def publish(folder: Path) -> None:
    """Run `asv publish` where `asv.conf.json` lies, with that folder for a home."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "asv", "publish"],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
