"""Files of wisdom: whole whoever writes and whenever a writer dies, and never trusted."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import remembered
from processes import run_python

from fastattn import Config, WisdomError, _wisdom
from fastattn._shapes import spec_of
from fastattn._wisdom import store
from fastattn._wisdom.entry import InvalidEntry

CHILDREN = """
    import os, random, signal, sys, time
    sys.path.insert(0, {tests!r})
    import remembered
    from fastattn import Config
    from fastattn._wisdom import store
    from fastattn._wisdom.entry import Entry

    def write(length, number, size=0):
        remembered.remember((1, 4, 2, length, 64, 16, 16), evidence=dict(
            writer=number, pad="x" * size))

    def sound():
        found = [entry for _, entry in store.entries()]
        assert all(isinstance(entry, Entry) for entry in found), found
        return found

    def fork(work, *arguments):
        child = os.fork()
        if child == 0:
            try:
                work(*arguments)
            finally:
                if sys.exc_info()[0] is not None:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
        return child

    def leftovers():
        return [n for _, _, names in os.walk(store.folder()) for n in names if n.endswith(".tmp")]
"""


def _run(code: str, folder: Path) -> str:
    children = CHILDREN.format(tests=str(Path(__file__).parent))
    return run_python("\n".join((_plain(children), _plain(code))), FASTATTN_WISDOM_DIR=str(folder))


def _plain(code: str) -> str:
    return "\n".join(line[4:] for line in code.splitlines())


@pytest.mark.slow
def test_a_hundred_writers(wisdom_folder: Path) -> None:
    """Each its own entry, and all the same: nothing is lost, a reader sees only whole ones."""
    code = """
    def work(number):
        write(4 ** (1 + number % 10), number)
        write(3, number)

    write(3, -1)
    children = [fork(work, number) for number in range(100)]
    alive = set(children)
    while alive:
        sound()
        for child in list(alive):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0
                alive.remove(child)
    by_length = {entry.spec.length_q: entry.evidence["writer"] for entry in sound()}
    assert sorted(by_length) == [3, *(4**n for n in range(1, 11))], by_length
    assert by_length.pop(3) in range(100)
    assert all(4 ** (1 + n % 10) == length for length, n in by_length.items())
    assert not leftovers()
    """
    _run(code, wisdom_folder)


@pytest.mark.slow
def test_writers_that_are_killed(wisdom_folder: Path) -> None:
    """At any moment: every file is whole, the old or the new, and what they leave is swept."""
    code = """
    begun, begin = os.pipe()

    def work(number):
        os.write(begin, b".")
        while True:
            write(random.choice((4, 16, 64)), number, 100_000)

    random.seed(0)
    for length in (4, 16, 64):
        write(length, -1)

    def both_seen():
        return leftovers() and any(entry.evidence["writer"] >= 0 for entry in sound())

    killed = 0
    while killed < 40 or (killed < 400 and not both_seen()):
        child = fork(work, killed)
        os.read(begun, 1)
        time.sleep(random.uniform(0, 0.02 * (1 + killed // 40)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(sound()) == 3
        killed += 1
    assert both_seen(), "no writer was killed while it wrote, or none could write"
    store.remove_leftovers()
    assert leftovers(), "they may still be written"
    for below, _, names in os.walk(store.folder()):
        for name in names:
            os.utime(os.path.join(below, name), (0, 0))
    store.remove_leftovers()
    assert not leftovers()
    assert len(sound()) == 3
    """
    _run(code, wisdom_folder)


@pytest.mark.slow
def test_where_nothing_may_be_written() -> None:
    """`remember` and `forget` raise; look-up works; an unreadable file counts as a miss."""
    code = """
    import logging
    from fastattn import WisdomError, _wisdom, wisdom

    said = []
    logging.getLogger("fastattn").addFilter(lambda record: said.append(record.getMessage()))
    spec, path = remembered.spec(), str(remembered.remember())
    above = os.path.dirname(path)

    def as_nobody(work):
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work()

    def done(work):
        assert os.waitpid(fork(as_nobody, work), 0)[1] == 0

    def read_only():
        assert _wisdom.lookup(spec, "auto").config == remembered.WINNER
        for act in (remembered.remember, wisdom.forget):
            try:
                act()
            except WisdomError as error:
                assert "Permission denied" in str(error) and "Fix" in str(error)
            else:
                raise AssertionError(act)
        assert len(wisdom.entries()) == 1 and not leftovers()

    def unreadable():
        assert _wisdom.lookup(spec, "auto") is None
        (text,) = said
        assert "cannot be read: Permission denied" in text and path in text, text

    def unlistable():
        assert _wisdom.lookup(spec, "auto") is None
        (text,) = said
        assert "cannot be listed: Permission denied" in text, text
        try:
            wisdom.entries()
        except WisdomError as error:
            assert "Permission denied" in str(error)
        else:
            raise AssertionError

    os.chmod(above, 0o555)
    done(read_only)
    os.chmod(path, 0)
    done(unreadable)
    os.chmod(above, 0)
    done(unlistable)
    os.chmod(above, 0o755)
    """
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        _run(code, Path(folder))


def test_files(wisdom_folder: Path) -> None:
    """Only what should be an entry; nothing where there is no folder."""
    assert list(store.entries()) == []
    path = remembered.remember()
    assert path.parent == remembered.here()
    (path.parent / ".x.tmp").write_text("")
    (path.parent / "notes.txt").write_text("")
    (wisdom_folder / "v2" / "stray.json").write_text("")
    assert [path for path, _ in store.entries()] == [str(path)]
    assert (os.stat(path).st_mode & 0o777) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_no_file_or_too_large(wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is not waited for, nor is memory filled."""
    path = remembered.remember()
    monkeypatch.setattr(store, "_MAX_BYTES", 100)
    with pytest.raises(InvalidEntry, match="larger than 100"):
        store.read(str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidEntry, match="not a file"):
        store.read(str(path))


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EDQUOT, errno.ENOSPC])
@pytest.mark.parametrize("name", ["fsync", "replace", "open"])
def test_errors_of_a_file_system(
    wisdom_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    """Whenever it tells them, as over a network at the end: the old entry stays, or is a miss."""
    remembered.remember()

    def fail(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        if name == "open":
            patched.setattr(store, "open", fail, raising=False)
            store.changed()
            assert _wisdom.lookup(remembered.spec(), "auto") is None
        else:
            patched.setattr(os, name, fail)
        with pytest.raises(WisdomError, match=os.strerror(code)):
            remembered.remember(config=Config(block_q=32))
    (path,) = (path for path in wisdom_folder.rglob("*") if path.is_file())
    store.changed()
    assert _wisdom.lookup(remembered.spec(), "auto").config == remembered.WINNER


def test_replace_file(tmp_path: Path) -> None:
    """Through a link, into a device, and nothing is left of what fails."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    store.replace_file(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    store.replace_file(os.devnull, "gone")
    assert not os.path.isfile(os.devnull)
    reader, writer = os.pipe()  # it has no path but this one
    store.replace_file(f"/dev/fd/{writer}", "through")
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == "through"
    store.replace_file(str(tmp_path / ("x" * 255)), "longest")
    (tmp_path / ("x" * 255)).unlink()
    for name, word in (("x" * 256, "too long"), ("a\0b", "null")):
        with pytest.raises(WisdomError, match=word):
            store.replace_file(str(tmp_path / name), "new")
    (tmp_path / "loop").symlink_to("loop")
    for write in (
        lambda path: store.replace_file(path, "x"),
        lambda path: store.check_writable(path, "file"),
    ):
        with pytest.raises(WisdomError, match="symbolic links"):
            write(str(tmp_path / "loop"))
    (tmp_path / "loop").unlink()
    store.check_writable(str(tmp_path / "link"), "file")
    if os.path.exists("/dev/full"):
        with pytest.raises(WisdomError, match="No space"):
            store.replace_file("/dev/full", "new")
    with pytest.raises(WisdomError, match="`file`.*No such file"):
        store.replace_file(str(tmp_path / "no" / "file"), "new", "file")
    with pytest.raises(WisdomError, match="directory"):
        store.replace_file(str(tmp_path), "new")
    with pytest.raises(WisdomError, match="surrogates"):
        store.replace_file(str(tmp_path / "file"), "\ud800")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("version", ["raises", "gives it back"])
def test_no_home(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """No folder is called ~: lookup goes on without wisdom, the rest is refused."""

    def user_cache_dir(name: str) -> str:
        if version == "raises":
            raise RuntimeError("could not determine the home directory")
        return f"~/.cache/{name}"

    monkeypatch.setattr("platformdirs.user_cache_dir", user_cache_dir)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for variable in ("", "~nobody/wisdom"):
        monkeypatch.setenv("FASTATTN_WISDOM_DIR", variable)
        store.changed()
        store._user_folder.cache_clear()
        try:
            assert _wisdom.lookup(spec_of((1, 1, 1, 8, 8, 8)), "auto") is None
            with pytest.raises(WisdomError, match="without a home folder"):
                store.folder()
        finally:
            store._user_folder.cache_clear()


def test_a_literal_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As from a file of variables that no shell reads; and a relative folder has one place."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FASTATTN_WISDOM_DIR", "~/wisdom")
    assert store.folder() == str(tmp_path / "wisdom/v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTATTN_WISDOM_DIR", "here")
    assert store.folder() == str(tmp_path / "here/v2")


def test_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Below the user's cache, unless the environment names another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FASTATTN_WISDOM_DIR")
    store._user_folder.cache_clear()
    try:
        found = Path(store.folder())
        assert found.parts[-2:] == ("tuning", "v2")
        assert "fastattn" in found.parts
        assert not list(tmp_path.iterdir())
    finally:
        store._user_folder.cache_clear()
