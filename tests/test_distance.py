"""How far apart two CPUs are: `perf/distance.py`."""

from __future__ import annotations

import os

import pytest

from perf.distance import ASKED, Distance, _to_and_fro

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU, or none that may be chosen")
def test_a_word_goes_there_and_back() -> None:
    """Again and again, in less than a time slice where the CPUs have nothing else to do."""
    with Distance(CPUS) as distance:
        for _ in range(3):
            seconds = distance.seconds()
            assert seconds is not None
            assert 0 < seconds < 0.1
        assert sorted(os.sched_getaffinity(0)) == CPUS
        child = distance._child
        assert child is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert distance.seconds() is None


def test_one_cpu_has_no_distance() -> None:
    with Distance([CPUS[0]]) as distance:
        assert distance.seconds() is None


def test_an_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perf.distance.LOOKS", 10)
    memory = bytearray(2048)
    assert _to_and_fro(memory) is None  # type: ignore[arg-type]
    assert memory[ASKED] == 1
