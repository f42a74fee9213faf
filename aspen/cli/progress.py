"""A bar on standard error for what takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Called with how much more was done, and how many things are done in all."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """Shown if standard error is a terminal. Without a total, only the count is."""
    if not sys.stderr.isatty():
        yield lambda _more, _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{what} 0", total=total)

        def advance(more: int, done: int) -> None:
            bar.update(task, advance=more, description=f"{what} {done}")

        yield advance
