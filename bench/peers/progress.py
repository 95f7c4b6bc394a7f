"""What is seen while servers are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..load.sample import Sample

# Drawing takes processor time that the servers need.
_REDRAWS_PER_SECOND = 1


@contextmanager
def progress_of(
    requests: int, console: Console
) -> Iterator[Callable[[str], Callable[[Sample], None]]]:
    """A bar over all requests; give it a step's title for what moves it on at every answer."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=_REDRAWS_PER_SECOND,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=requests)

        def step(title: str) -> Callable[[Sample], None]:
            bar.update(task, description=title)
            return lambda _: bar.advance(task)

        yield step
