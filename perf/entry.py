"""How each tool begins and ends: ``entry.run(main)``.

A tool ends with a message and a status, whatever its files, its output or git do: 2 if something
cannot be read or written, 130 after Ctrl-C, 141 if nobody reads its output any more.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from perf import git
from perf.files import FileError


def run(main: Callable[[], int]) -> NoReturn:
    """Run a tool in this process and exit with its status."""
    git.forget_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a sign
    sys.exit(_status(main))


def _status(main: Callable[[], int]) -> int | str | None:
    status: int | str | None
    try:
        try:
            status = main()
        except SystemExit as done:  # argparse: what it printed is still in the buffer
            status = done.code
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        status, text = 130, "\nInterrupted."
    except BrokenPipeError:
        status, text = 141, ""
    except (FileError, git.GitError) as error:
        status, text = 2, str(error)
    except ImportError as error:  # an optional package that is absent or broken
        status, text = 2, f"{error}. Fix: install what this target needs, with make."
    except (OSError, MemoryError) as error:
        status, text = 2, f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # Python flushes its buffer at exit: that is to succeed, wherever it goes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        if text:
            print(text, file=sys.stderr, flush=True)
    return status
