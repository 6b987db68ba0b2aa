"""Both revisions, installed: in one asv environment, each in a folder of its own.

There is one environment, not two: interpreter, NumPy and Numba are then the same files for both
sides, down to the pages in the file cache, and only the folder that PYTHONPATH names differs.
Environment, checkout, build command and wheel cache are asv's, so that what `make bench` has
built is not built again.
"""

from __future__ import annotations

import compileall
import contextlib
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf import git

FLAGS_VARIABLE = "FASTATTN_CXXFLAGS"
FOLDER = Path(".asv/paired")


class BuildError(RuntimeError):
    """A revision cannot be built."""


@dataclass(frozen=True, slots=True)
class Build:
    """An installed build.

    Attributes
    ----------
    commit : str
        Full hash.
    python : str
        Interpreter of the environment.
    folder : Path
        Folder that holds the package.
    """

    commit: str
    python: str
    folder: Path


class Builder:
    """The environment, made when first needed; asv.conf.json must be in the current folder."""

    def __init__(self, log: Path, say: Callable[[str], None] = lambda text: None) -> None:
        from asv import environment
        from asv.config import Config
        from asv.repo import get_repo

        git.forget_environment()
        self._say, self._log = say, log
        self._configuration = Config.load("asv.conf.json")
        # asv looks up an interpreter by its version: make it find the one that runs this.
        path = os.environ.get("PATH", "")
        os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), path))
        with self._logged():
            self._repository = get_repo(self._configuration)
            (self._environment,) = environment.get_environments(self._configuration, None)

    def commit(self, revision: str) -> str:
        """Hash of a revision.

        Raises
        ------
        BuildError
            There is no such commit.
        """
        try:
            return git.commit(revision)
        except git.GitError as error:
            raise BuildError(str(error)) from None

    def install(self, commit: str, name: str) -> Build:
        """Build a commit, unless it is built already, and put the package into its own folder.

        Raises
        ------
        BuildError
            It cannot be built; the log says why.
        """
        try:
            with self._logged():
                if not self._environment.check_presence():
                    self._say("making asv's environment")
                self._environment.create()
                wheel = self._wheel(commit)
                python = self._environment.find_executable("python")
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BuildError(
                f"{commit[:8]} cannot be built: {lines[0]}; see {self._log}"
            ) from error
        folder = (FOLDER / "installed" / name).resolve()
        unpack(wheel, folder)
        return Build(commit, python, folder)

    def _wheel(self, commit: str) -> Path:
        """The wheel in asv's cache."""
        cache: Any = self._environment._cache
        found = cache.get_cache_dir(commit)
        if found is None:
            self._say(f"building {commit[:8]}")
            found = cache.create_cache_dir(commit)
            self._build(commit, Path(found))
            cache.finalize_cache_dir(commit)
        return _only_wheel(Path(found))

    def _build(self, commit: str, folder: Path) -> None:
        """Run asv.conf.json's build command, without any flags from the shell."""
        one: Any = self._environment
        one.checkout_project(self._repository, commit)
        one._set_build_dirs(one._build_root, str(folder))
        before = os.environ.pop(FLAGS_VARIABLE, None)
        try:
            one._build_project(self._repository, commit, one._build_root)
        finally:
            if before is not None:
                os.environ[FLAGS_VARIABLE] = before

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Write what asv says to the log afterwards, even if asv fails."""
        from asv.console import log

        log.enable()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                yield
        finally:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(said.getvalue())


def unpack(wheel: Path, folder: Path) -> None:
    """Install a wheel without its dependencies, and compile it so that no import has to."""
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    compileall.compile_dir(folder, quiet=2)


def _only_wheel(folder: Path) -> Path:
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"{len(wheels)} wheels in {folder}")
    return wheels[0]
