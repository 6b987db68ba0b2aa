"""git's environment and refusals, as the tools meet them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perf import git


def test_variables_of_a_hook_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"GIT_DIR": "/x", "GIT_INDEX_FILE": "/y", "PATH": "/bin"})
    git.forget_environment()
    assert os.environ == {"PATH": "/bin"}


def test_the_reason_of_git_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit) as error:
        git.output("status")
    assert error.value.code == 2
    assert "not a git repository" in capsys.readouterr().err
