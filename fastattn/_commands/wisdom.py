"""``fastattn wisdom``: show, export, import, merge and forget what the tuner found."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fastattn import wisdom
from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError
from fastattn._shapes import SHAPE, parse_shape

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "show, export, import, merge and forget the configurations that tune found"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An action, and what it acts on."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("show", help="list the configurations of this machine")

    exported = actions.add_parser("export", help="write all configurations to one file")
    exported.add_argument("file", metavar="FILE")

    imported = actions.add_parser("import", help="add the configurations of an exported file")
    imported.add_argument("file", metavar="FILE")

    merged = actions.add_parser("merge", help="join exported files; of equal keys the newest wins")
    merged.add_argument("files", metavar="FILE", nargs="+")
    merged.add_argument("-o", dest="out", metavar="FILE", required=True)

    forgotten = actions.add_parser("forget", help="remove configurations")
    which = forgotten.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="those of every machine and build")
    which.add_argument("--here", action="store_true", help="those of this machine and build")
    which.add_argument("--damaged", action="store_true", help="those that cannot be read or run")
    which.add_argument("--shape", metavar=SHAPE, help="those of this machine for similar problems")
    forgotten.add_argument("--dtype", metavar="NAME", help=f"only those of {', '.join(DTYPES)}")


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> str:
    """Do it, and return what was done."""
    return {
        "show": lambda: wisdom.show(),
        "export": lambda: f"{wisdom.export(options.file)} exported to {options.file}",
        "import": lambda: _describe(wisdom.import_(options.file)),
        "merge": lambda: _describe(wisdom.merge(*options.files, out=options.out)),
        "forget": lambda: f"{_forget(options)} forgotten",
    }[options.action]()


def _forget(options: argparse.Namespace) -> int:
    if options.damaged and options.dtype is not None:
        raise ArgumentError(
            "--dtype", options.dtype, "it without --damaged", "leave one of them out"
        )
    shape = None if options.shape is None else parse_shape(options.shape)
    return wisdom.forget(shape, options.dtype, everywhere=options.all, damaged=options.damaged)


def _describe(result: wisdom.MergeResult) -> str:
    lines = [f"refused: {reason}" for reason in result.refused]
    counts = f"{result.added} added, {result.kept} kept, {len(result.refused)} refused"
    return "\n".join([*lines, counts])
