"""Progress on standard error: a bar if rich is installed and somebody watches, else lines."""

from __future__ import annotations

import sys
import time
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
            self._bar = _bar()
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
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


def _bar() -> Any:
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    columns = (
        progress.SpinnerColumn(),
        progress.BarColumn(24),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}  {task.fields[cell]}", markup=False),
    )
    bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
    task_of = bar.add_task
    bar.add_task = lambda *args, **fields: task_of(*args, cell="", **fields)  # type: ignore[method-assign]
    return bar
