"""What is under way, shown while it is: by the package rich if it is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastattn.tuner.search import Event

__all__ = ["display"]

_EACH_SECONDS = 0.1


@contextmanager
def display(
    title: str, budget: int, progress: Callable[[str], None]
) -> Iterator[Callable[[Event], None]]:
    """Give the function that is to be told the events of a search.

    The display is drawn between blocks only: a thread that drew would disturb what is measured.

    Parameters
    ----------
    title : str
        What is tuned.
    budget : int
        Number of evaluations.
    progress : callable
        Shows a line in place of the one before; used if rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        progress(f"{title}: preparing")
        yield _seldom(lambda event: progress(_words(event)))
        progress("")
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda event: None
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
    )
    with bars:
        task = bars.add_task(f"tune {title}", total=budget, words="preparing")
        bars.refresh()

        def show(event: Event) -> None:
            done = event.done if event.phase == "search" else budget
            bars.update(task, completed=done, words=_words(event), refresh=True)

        yield _seldom(show)


def _words(event: Event) -> str:
    unit = "points" if event.phase == "search" else "rounds"
    return f"{event.phase}: {event.done} {unit}, best {event.ratio:.3f}"


def _seldom(show: Callable[[Event], None]) -> Callable[[Event], None]:
    """`show`, but not more often than eyes can follow."""
    shown = float("-inf")

    def tell(event: Event) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _EACH_SECONDS:
            shown = now
            show(event)

    return tell
