"""``fastattn explain``: how a call would be computed, and why."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fastattn._api import explain
from fastattn._commands import shapes
from fastattn.implementations import REGISTRY

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "how a call would be computed, and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The call's shape, data type, causal mask and implementation."""
    parser.add_argument("--shape", required=True, metavar=shapes.METAVAR)
    parser.add_argument("--dtype", default="float32", metavar="NAME", help=shapes.DTYPE_HELP)
    parser.add_argument("--causal", action="store_true", help="causal, aligned bottom-right")
    parser.add_argument("--impl", default="auto", help=f"auto, {', '.join(REGISTRY)}")


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> str:
    """The explanation's text."""
    q, k, v = shapes.arrays(options.shape, options.dtype)
    return str(explain(q, k, v, causal=options.causal, align="bottom_right", impl=options.impl))
