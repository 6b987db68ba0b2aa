"""Commands of ``fastattn``, one file each, and their registry.

A command is a module that describes itself (`Command`).  It returns what is to be printed;
``__main__`` prints it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Protocol

from fastattn._commands import explain, info, tune, wisdom

__all__ = ["REGISTRY", "Command"]


class Command(Protocol):
    """What a module in this folder that `REGISTRY` names offers.

    `run` may pass `progress` a line that replaces the previous one, "" for none.  It does the
    heavy imports itself.
    """

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe its arguments."""

    def run(
        self, options: argparse.Namespace, progress: Callable[[str], None]
    ) -> str | Iterable[str]:
        """Return what to print, whole or in parts; a refusal is a FastattnError."""


REGISTRY: dict[str, Command] = {
    "info": info,
    "explain": explain,
    "tune": tune,
    "wisdom": wisdom,
}
