"""Builds of the paired driver: one environment, asv's cache, flags that stay out of it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from perf import run
from perf.paired import builds

ROOT = Path(run.__file__).resolve().parent.parent


class Environment:
    """As much of asv's as `Builder` uses; a build is an archive with the flags in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.built, self.fails = folder, [], False
        self._build_root = str(folder / "project")
        self._cache = SimpleNamespace(
            get_cache_dir=lambda commit: str(self.at(commit)) if self.at(commit).exists() else None,
            create_cache_dir=self.create_cache_dir,
            finalize_cache_dir=lambda commit: None,
        )

    def at(self, commit: str) -> Path:
        return self.folder / "cache" / commit

    def create_cache_dir(self, commit: str) -> str:
        self.at(commit).mkdir(parents=True)
        return str(self.at(commit))

    def check_presence(self) -> bool:
        return False

    def create(self) -> None:
        print("asv makes something")

    def find_executable(self, name: str) -> str:
        return f"/env/{name}"

    def checkout_project(self, repository: object, commit: str) -> None:
        self.commit = commit

    def _set_build_dirs(self, root: str, folder: str) -> None:
        self.into = folder

    def _build_project(self, repository: object, commit: str, root: str) -> None:
        if self.fails:
            raise RuntimeError("the compiler says no\nat length")
        flags = os.environ.get(builds.FLAGS_VARIABLE, "")
        self.built.append((self.commit, flags))
        with zipfile.ZipFile(Path(self.into, "fastattn-1.whl"), "w") as archive:
            archive.writestr("fastattn/__init__.py", "")
            archive.writestr("fastattn/implementations/_native.so", b"code")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    pytest.importorskip("asv", reason="the extra [bench] is not installed")
    from asv import environment as asv_environment
    from asv import repo

    fake = Environment(tmp_path)
    monkeypatch.setattr(asv_environment, "get_environments", lambda *_: [fake])
    monkeypatch.setattr(repo, "get_repo", lambda configuration: None)
    monkeypatch.setenv(builds.FLAGS_VARIABLE, "-O0")  # not for what is compared
    (tmp_path / "asv.conf.json").write_text((ROOT / "asv.conf.json").read_text())
    monkeypatch.chdir(tmp_path)
    return fake


def test_a_commit_is_built_once_and_installed_twice(environment: Environment) -> None:
    said: list[str] = []
    builder = builds.Builder(Path("log"), said.append)
    one, two = (builder.install("c" * 40, name) for name in ("base", "head"))
    assert environment.built == [("c" * 40, "")]
    assert said == ["making asv's environment", "building cccccccc", "making asv's environment"]
    assert one.folder != two.folder
    assert len(str(one.folder)) == len(str(two.folder))
    assert (one.folder / "fastattn/implementations/_native.so").read_bytes() == b"code"
    assert list(one.folder.glob("fastattn/__pycache__/*.pyc"))
    assert one.python == "/env/python"
    assert "asv makes something" in Path("log").read_text()
    assert os.environ[builds.FLAGS_VARIABLE] == "-O0"


def test_a_build_that_fails_says_so(environment: Environment) -> None:
    builder = builds.Builder(Path("log"))
    environment.fails = True
    with pytest.raises(builds.BuildError, match="cccccccc cannot be built: the compiler says no"):
        builder.install("c" * 40, "head")
    environment.fails = False
    environment.at("d" * 40).mkdir(parents=True)
    with pytest.raises(builds.BuildError, match="0 wheels"):
        builder.install("d" * 40, "head")


def test_a_revision_is_a_commit(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = builds.Builder(Path("log"))
    with pytest.raises(builds.BuildError, match="'HEAD' is no commit"):
        builder.commit("HEAD")  # this folder is no repository
    monkeypatch.chdir(ROOT)
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    assert len(builder.commit("HEAD")) == 40
