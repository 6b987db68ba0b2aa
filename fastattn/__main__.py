"""The command ``fastattn``, whose subcommands are in ``_commands``.  The only file that prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fastattn._commands import REGISTRY
from fastattn._errors import FastattnError
from fastattn._version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 on success; 2 if the call is refused or memory does not suffice; 130 after Ctrl-C; 141 if
    nobody reads the output any more, as with `| head`.
    """
    options = _parser().parse_args(arguments)
    try:
        found = REGISTRY[options.command].run(options, _progress)
        for text in [found] if isinstance(found, str) else found:
            print(text, flush=True)
    except FastattnError as error:
        print(f"fastattn: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"fastattn: not enough memory: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastattn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes its buffer at exit: redirect it to where that succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


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
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
