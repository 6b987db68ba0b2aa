"""Hypothesis profiles, marks, and the `target` parameter.

A test with an argument `target` runs once for each implementation and, of ``cython``,
each instruction set that fastattn knows; one that cannot run here is skipped by name.
With an argument `tiled` it runs for the same, less ``numpy``; with `native` for ``cython`` alone.

Hypothesis draws new cases at each run, from a seed that the header prints;
``--hypothesis-seed=N`` repeats them.  ``HYPOTHESIS_PROFILE=thorough`` draws many more.
"""

from __future__ import annotations

import os
import random
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from processes import Command
from targets import TARGETS

from fastattn._log import warn_once
from fastattn._wisdom import store

_COMMON = {
    "deadline": None,  # a first call compiles
    "print_blob": True,
    "suppress_health_check": [
        HealthCheck.too_slow,
        HealthCheck.differing_executors,
        HealthCheck.filter_too_much,  # an instruction set may serve one data type in four
    ],
}
settings.register_profile("gate", max_examples=60, **_COMMON)
settings.register_profile("thorough", max_examples=2_000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session", autouse=True)
def _no_wisdom_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user has tuned steers no test, and no test touches it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTATTN_WISDOM_DIR", str(tmp_path_factory.mktemp("wisdom") / "empty"))
        patch.delenv("FASTATTN_WISDOM", raising=False)
        yield


@pytest.fixture
def wisdom_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of wisdom for one test, not made yet; nothing is known from other tests."""
    monkeypatch.setenv("FASTATTN_WISDOM_DIR", str(tmp_path / "wisdom"))
    store.changed()
    warn_once.cache_clear()
    yield tmp_path / "wisdom"
    store.changed()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``python -m fastattn`` in this process: exit status, standard output and error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastattn", *arguments])
        monkeypatch.delitem(sys.modules, "fastattn.__main__", raising=False)
        status = 0
        try:
            runpy.run_module("fastattn", run_name="__main__", alter_sys=False)
        except SystemExit as done:
            status = done.code if isinstance(done.code, int) else int(done.code is not None)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads the option, and xdist copies it
def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed of this run, unless the command line gives one."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    """Show how this run's cases are drawn again."""
    return f"to repeat these cases: --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: with several workers the rest is shared out while it runs."""
    items.sort(key=lambda item: item.path.name != "test_benchmarks_smoke.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise `target`, `tiled` and `native`."""
    for name, chosen in (
        ("target", TARGETS),
        ("tiled", tuple(target for target in TARGETS if target.tiled)),
        ("native", tuple(target for target in TARGETS if target.impl == "cython")),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [target.parameter() for target in chosen])
