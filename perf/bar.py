"""The progress bar of long commands."""

from __future__ import annotations

from typing import Any


def bar(**options: Any) -> Any:
    """A `rich.progress.Progress` with share, time and description; it disappears at its end.

    rich is imported here, not at the top, because asv imports every module in this folder.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(24),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, transient=True, **options)
