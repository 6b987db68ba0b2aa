"""git's environment, words and refusals, as the tools meet them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from perf import git, history

# git's own list has its configuration, too, where a user may well allow a folder.
_KEPT = {"GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT"}


def _git(*arguments: str, folder: Path) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout.decode()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a signed commit whose message is no text, and odd names for it.

    The user's git shows signatures wherever it shows a commit.
    """
    monkeypatch.chdir(tmp_path)
    git.forget_environment()
    _git("init", "-q", "-b", "main", folder=tmp_path)
    (tmp_path / "setup.py").write_text("")
    _git("add", "setup.py", folder=tmp_path)
    tree = _git("write-tree", folder=tmp_path).encode()
    who = b"x <x@example.com> 0 +0000\n"
    signature = b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n =x\n -----END PGP SIGNATURE-----\n"
    (tmp_path / "raw").write_bytes(  # `git commit` would make text of it
        b"tree %sauthor %scommitter %s%s\ncaf\xe9 \xff\n" % (tree, who, who, signature)
    )
    _git("config", "log.showSignature", "true", folder=tmp_path)
    head = _git("hash-object", "-t", "commit", "-w", "raw", folder=tmp_path).strip()
    _git("update-ref", "HEAD", head, folder=tmp_path)
    for name in ("a&b", "it's", "fix(x)", "topic;>INJECTED", "-q", "--help", "caf\u00e9"):
        _git("update-ref", f"refs/heads/{name}", "HEAD", folder=tmp_path)
    return tmp_path


def test_variables_of_a_hook_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that git calls local to a repository."""
    listed = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], check=True, capture_output=True, text=True
    ).stdout.split()
    hook = dict.fromkeys({*listed, *git.LOCAL_VARIABLES} - _KEPT, "/x")
    monkeypatch.setattr(os, "environ", {**hook, "PATH": "/bin"})
    git.forget_environment()
    assert os.environ == {"PATH": "/bin"}


def test_a_message_that_is_no_text(repository: Path) -> None:
    assert history.subject("HEAD") == "caf\ufffd \ufffd"


@pytest.mark.parametrize("name", ["a&b", "it's", "fix(x)", "topic;>INJECTED", "-q", "caf\u00e9"])
def test_a_revision_is_one_word(repository: Path, name: str) -> None:
    """Whatever git allows in a name, an option's form included; nothing is run."""
    head = git.commit("HEAD")
    assert git.commit(name) == head
    assert history.commits(3, name, repository) == [head]
    assert sorted(path.name for path in repository.iterdir()) == [".git", "raw", "setup.py"]


@pytest.mark.parametrize("name", ["", "nowhere", "HEAD~7", "a\nb", "HEAD^{tree}", "--", "@{-1}"])
def test_no_such_revision(repository: Path, name: str) -> None:
    with pytest.raises(git.GitError, match="is no commit of this repository: "):
        git.commit(name)


def test_detached_worktree_and_shallow(repository: Path, tmp_path: Path) -> None:
    head = git.commit("HEAD")
    _git("worktree", "add", "-q", "--detach", "tree", folder=repository)
    assert git.output("rev-parse", "HEAD", folder=repository / "tree").strip() == head
    url = f"file://{repository}"
    _git("clone", "-q", "--depth", "1", url, "shallow", folder=repository)
    assert history.commits(9, "HEAD", repository / "shallow") == [head]


def test_gits_reason_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(git.GitError, match="not a git repository"):
        git.output("status")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(git.GitError, match="git cannot be run"):
        git.output("status")
