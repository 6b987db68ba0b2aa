"""The command ``fastattn``, whose subcommands are in ``_commands``.  The only file that prints."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from fastattn._commands import REGISTRY
from fastattn._errors import FastattnError
from fastattn._version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 on success; 2 if the call is refused, memory does not suffice or the output cannot be
    written; 130 after Ctrl-C; 141 if nobody reads the output any more, as with `| head`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a sign
    try:
        try:
            options = _parser().parse_args(arguments)
            found = REGISTRY[options.command].run(options, _progress)
            for text in [found] if isinstance(found, str) else found:
                print(text, flush=True)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except FastattnError as error:
        status, message = 2, str(error)
    except MemoryError as error:
        status, message = 2, f"not enough memory: {error}"
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    except OSError as error:
        broken = isinstance(error, BrokenPipeError)
        status, message = (141, "") if broken else (2, f"the output is lost: {error}")
        # Python flushes its buffer at exit: redirect it to where that succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        return 0
    with contextlib.suppress(OSError):
        if message:
            print(f"fastattn: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastattn", description="Exact scaled-dot-product attention for NumPy arrays on CPUs."
    )
    parser.add_argument("--version", action="version", version=f"fastattn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, command in REGISTRY.items():
        command.add_arguments(
            commands.add_parser(name, help=command.SUMMARY, description=command.SUMMARY)
        )
    return parser


def _progress(text: str) -> None:
    """Replace the progress line; only if stderr is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
