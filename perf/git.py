"""git, for tools that must leave the user's checkout alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Set by git for hooks, aliases and `rebase --exec`; git then obeys them, not the current folder.
LOCAL_VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_QUARANTINE_PATH", "GIT_INTERNAL_SUPER_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
    *("GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_CONFIG"),
    *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
)


class GitError(RuntimeError):
    """git failed; the message is its reason."""


def forget_environment() -> None:
    """Make git go by the current folder, in this process and its children."""
    for name in LOCAL_VARIABLES:
        os.environ.pop(name, None)


def output(*arguments: str, folder: Path | None = None) -> str:
    """What git prints, in the current folder or another.

    Raises
    ------
    GitError
        git failed, or there is none.
    """
    command = ["git", "-c", "log.showSignature=false", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise GitError(f"git cannot be run: {error}") from None
    if done.returncode != 0:
        raise GitError(done.stderr.strip() or f"git {arguments[0]} failed")
    return done.stdout


def commit(revision: str) -> str:
    """Hash of a revision.

    Raises
    ------
    GitError
        There is no such commit, or no repository.
    """
    try:
        name = f"{revision}^{{commit}}"
        return output("rev-parse", "--verify", "--end-of-options", name).split()[-1]
    except GitError as error:
        raise GitError(f"{revision!r} is no commit of this repository: {error}") from None
