"""git, for tools that must leave the user's checkout alone."""

from __future__ import annotations

import os
import subprocess
import sys

# Set by git for hooks, aliases and `rebase --exec`; git then obeys them, not the current folder.
LOCAL_VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"),
    *("GIT_QUARANTINE_PATH", "GIT_INTERNAL_SUPER_PREFIX"),
)


def forget_environment() -> None:
    """Make git go by the current folder, in this process and its children."""
    for name in LOCAL_VARIABLES:
        os.environ.pop(name, None)


def output(*arguments: str) -> str:
    """What git prints.

    Raises
    ------
    SystemExit
        git failed: its reason is printed, and the status is 2.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr.strip(), file=sys.stderr)
        raise SystemExit(2)
    return done.stdout
