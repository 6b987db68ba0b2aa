"""``fastattn explain``: how a call would be computed, and why."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fastattn._dtypes import DTYPES
from fastattn._plan import explain_plan
from fastattn._shapes import AXES, SHAPE, spec_of
from fastattn.implementations import REGISTRY

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "show how a call would be computed, and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The call's shape, data type, causal mask and implementation."""
    add = parser.add_argument
    add("--shape", required=True, metavar=SHAPE, help=AXES)
    add("--dtype", default="float32", metavar="NAME", help=f"one of {', '.join(DTYPES)}")
    add("--causal", action="store_true", help="with a causal mask, aligned bottom-right")
    add("--impl", default="auto", metavar="NAME", help=f"auto, {', '.join(REGISTRY)}")


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> str:
    """The explanation's text."""
    spec = spec_of(options.shape, options.dtype, causal=options.causal)
    return str(explain_plan(spec, options.impl, None))
