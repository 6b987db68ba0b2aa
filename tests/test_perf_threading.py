"""The comparison of OpenMP with the pool: its calls, not its times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastattn._machine import native
from perf import threading

ROOT = Path(__file__).resolve().parent.parent


def test_each_load_and_case_has_a_ratio() -> None:
    """In the order asked for."""
    binding, _ = native()
    if binding is None or not binding.OPENMP:
        pytest.skip("the extension is not built, or has no OpenMP")
    rows = list(
        threading.compare(("small", "dim-256"), threads=2, repetitions=2, block_seconds=0.002)
    )
    assert [(row.load, row.case) for row in rows] == [
        (load, case) for load in ("idle", "contended") for case in ("small", "dim-256")
    ]
    for row in rows:
        assert row.pool_seconds > 0
        assert 0 < row.openmp_over_pool.low <= row.openmp_over_pool.high


def test_an_unknown_case_is_refused() -> None:
    """By name, before anything is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "perf.threading", "abacus"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no case abacus" in done.stderr
