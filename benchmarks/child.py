"""Child processes that measure: a module's function `child`, called in a fresh interpreter.

The child imports the fastattn that this process would, although the repository's root, where
`benchmarks` and `perf` are, may hold a source tree of another version: the folder of the installed
package comes first on the child's path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_CODE = "import importlib, sys; importlib.import_module(sys.argv[1]).child(sys.argv[2])"


def command(module: str, request: Mapping[str, Any], python: str | None = None) -> list[str]:
    """Command line that calls ``module.child`` with a request in JSON."""
    return [python or sys.executable, "-P", "-c", _CODE, module, json.dumps(request)]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment and `more`, with the path of a child."""
    return os.environ | dict(more or {}) | {"PYTHONPATH": search_path()}


def search_path(package: Path | None = None) -> str:
    """PYTHONPATH of a child.

    `package` is the folder that holds the package fastattn; None is that of this process's.
    """
    if package is None:
        spec = find_spec("fastattn")
        package = ROOT if spec is None else Path(spec.origin or "").resolve().parents[1]
    return os.pathsep.join((str(package), str(ROOT)))


def ask(
    module: str,
    request: Mapping[str, Any],
    timeout_seconds: float,
    more: Mapping[str, str] | None = None,
) -> Any:
    """What ``module.child`` prints last, as JSON; `more` is added to the environment."""
    return json.loads(last_line(command(module, request), environment(more), timeout_seconds))


def last_line(
    command: Sequence[str], environment: Mapping[str, str], timeout_seconds: float | None = None
) -> str:
    """Run a command, and return the last line that it prints.

    Raises
    ------
    RuntimeError
        It failed, or took too long; the message has the end of what it said.
    """
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no result in {timeout_seconds:g} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"process ended with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]
