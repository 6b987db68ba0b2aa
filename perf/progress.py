"""Progress of long commands: a bar if rich is installed and a terminal shows it, else lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

LINE_SECONDS = 15.0


class Progress:
    """Says what is being done; leaves standard output to the table."""

    def __init__(self, rich: bool | None = None) -> None:
        self._bar: Any = None
        self._stream = sys.stderr  # the present one: it is redirected while asv builds
        self._started = time.monotonic()
        self._said = -LINE_SECONDS
        if sys.stderr.isatty() if rich is None else rich:
            self._bar = _bar_or_none("{task.description}  {task.fields[cell]}")
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=None, cell="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Announce a step that takes long."""
        if self._bar is not None:
            self._bar.update(self._task, description=text, total=None)
        else:
            self._line(text)

    def round(self, stage: str, done: int, wanted: int) -> None:
        """Report the rounds of a stage; lines are some seconds apart, except a stage's last."""
        text = f"{stage}: round {done} of {wanted}"
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=done, total=wanted)
        elif done == wanted or time.monotonic() - self._said >= LINE_SECONDS:
            self._line(text)

    def cell(self, name: str) -> None:
        """Name the cell in hand, on the bar only."""
        if self._bar is not None:
            self._bar.update(self._task, cell=name)

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        minutes, seconds = divmod(int(self._said - self._started), 60)
        print(f"{minutes:2d}:{seconds:02d}  {text}", file=self._stream, flush=True)


@contextmanager
def shares() -> Iterator[Callable[[float, str], None]]:
    """A function that is told the share done and what is being done; it draws when told to.

    Nothing else may run between the blocks of a measurement.
    """
    shown = _bar_or_none(auto_refresh=False) if sys.stderr.isatty() else None
    if shown is None:
        said = {""}

        def line(share: float, text: str) -> None:
            if text not in said:
                said.add(text)
                print(f"{100 * share:3.0f} %  {text}", file=sys.stderr, flush=True)

        yield line
        return
    with shown:
        task = shown.add_task("starting", total=1.0)
        yield lambda share, text: shown.update(
            task, completed=share, description=text, refresh=True
        )


def bar(description: str = "{task.description}", **options: Any) -> Any:
    """A `rich.progress.Progress` with share, times and description; it disappears at its end."""
    from rich import progress

    columns = (
        progress.SpinnerColumn(),
        progress.BarColumn(24),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn(description, markup=False),
    )
    return progress.Progress(*columns, transient=True, **options)


def _bar_or_none(description: str = "{task.description}", **options: Any) -> Any:
    """A bar on standard error; None if rich is not installed, or broken."""
    try:
        from rich.console import Console

        return bar(description, console=Console(stderr=True), **options)
    except Exception:
        return None
