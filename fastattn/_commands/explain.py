"""``fastattn explain``: how a call would be computed, and why."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fastattn._dtypes import DTYPES
from fastattn._plan import explain_plan
from fastattn._shapes import SHAPE, spec_of
from fastattn.implementations import REGISTRY

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "how a call would be computed, and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The call's shape, data type, causal mask and implementation."""
    parser.add_argument("--shape", required=True, metavar=SHAPE)
    parser.add_argument("--dtype", default="float32", metavar="NAME", help=", ".join(DTYPES))
    parser.add_argument("--causal", action="store_true", help="causal, aligned bottom-right")
    parser.add_argument("--impl", default="auto", help=f"auto, {', '.join(REGISTRY)}")


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> str:
    """The explanation's text."""
    spec = spec_of(options.shape, options.dtype, causal=options.causal)
    return str(explain_plan(spec, options.impl, None))
