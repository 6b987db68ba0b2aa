"""Working memory of a long sequence: no Lq x Lk matrix is held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import run_python
from targets import Target

# The peak is the process's own: before the call, memory is touched up to the highest
# level reached so far (by imports, by compiling), so that whatever the call adds shows.
CODE = """
import json, sys
import numpy as np
import fastattn

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

how = json.loads(sys.argv[1])
config = fastattn.Config(**how["config"])
small = np.ones((3, 100, 64), np.float32)
fastattn.attention(*small, impl=how["impl"], config=config)
length_q, length_k, dim = how["shape"]
rng = np.random.default_rng(0)
q = rng.standard_normal((length_q, dim), dtype=np.float32)
k, v = rng.standard_normal((2, length_k, dim), dtype=np.float32)
out = np.zeros((length_q, dim), np.float32)
ballast = np.ones(max(0, status("VmHWM") - status("VmRSS")) + 2**20, np.uint8)
before = status("VmHWM")
assert status("VmRSS") > before - 2**20
fastattn.attention(q, k, v, out=out, impl=how["impl"], config=config)
extra = status("VmHWM") - before
assert np.isfinite(out).all() and out.any()
print(extra)
"""


def _extra_bytes(target: Target, shape: tuple[int, int, int], **tunables: int) -> int:
    """Peak beyond inputs and output of a call of Lq, Lk, D = Dv."""
    config = target.config(**tunables).explicit()
    how = {"impl": target.impl, "config": config, "shape": shape}
    return int(run_python(CODE, json.dumps(how), timeout_seconds=300))


def _has_peak() -> bool:
    status = Path("/proc/self/status")
    return status.exists() and "VmHWM" in status.read_text()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _has_peak(), reason="this system does not tell a process's peak memory"),
]


def test_long_sequence(tiled: Target) -> None:
    """L = 16,384, D = 64, one head, threads by default: at most 16 MiB."""
    assert _extra_bytes(tiled, (16_384, 16_384, 64)) <= 16 * 2**20


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("length_q", [1, 512], ids=["decoding", "prefill"])
def test_many_keys(native: Target, length_q: int, dim: int) -> None:
    """Lk = 65,536 on two threads: at most 4 MiB for each."""
    assert _extra_bytes(native, (length_q, 65_536, dim), threads=2) <= 2 * 4 * 2**20


def test_the_measure_sees_a_matrix_of_scores() -> None:
    """NumPy's scores for L = 3,000 are 36 MB: the measure must show them."""
    assert _extra_bytes(Target("numpy", None, None), (3_000, 3_000, 64)) >= 30_000_000
