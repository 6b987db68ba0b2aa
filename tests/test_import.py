"""What ``import fastattn`` costs, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import run_python


def test_nothing_heavy_is_imported() -> None:
    """Nor by the first calls, where ``numpy`` or ``cython`` computes them."""
    run_python(
        """
        import sys
        import numpy as np
        before = set(sys.modules)
        import fastattn
        heavy = {"numba", "llvmlite", "ml_dtypes", "scipy", "threadpoolctl", "argparse",
                 "platformdirs", "rich", "matplotlib", "fastattn.wisdom", "fastattn.tuner"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        x = np.ones((3, 4), np.float32)
        fastattn.attention(x, x, x, impl="numpy")
        fastattn.attention(x, x, x)
        heavy -= {"platformdirs"}  # to look for wisdom
        assert not (heavy - before) & set(sys.modules), heavy & set(sys.modules)
        assert fastattn.wisdom.__name__ == "fastattn.wisdom"
        """
    )


def test_nothing_is_printed_or_logged() -> None:
    """A silent import, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import fastattn"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _seconds(code: str, environment: dict[str, str]) -> float:
    # No timeout: with one, the end is looked for ever more rarely, after 64 ms not before 114.
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.timing
def test_import_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 1.3 times ``import numpy`` alone: least times of interleaved processes.

    Other load only ever adds time; a round that it spoilt is repeated. Both are imported from
    bytecode, as installed packages are: a checkout has none where its writing is switched off.
    """
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    _seconds("import fastattn", environment)
    assert list(tmp_path.rglob("fastattn/__init__.*.pyc"))
    ours, numpys = [], []
    for _ in range(8):
        for _ in range(6):
            numpys.append(_seconds("import numpy", environment))
            ours.append(_seconds("import fastattn", environment))
        if min(ours) <= 1.3 * min(numpys):
            return
    raise AssertionError(f"import fastattn takes {min(ours):.3f} s, numpy {min(numpys):.3f} s")
