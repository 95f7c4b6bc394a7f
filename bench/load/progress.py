"""What is seen while a run is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .sample import Sample

# The client's processor time is measured too: drawing must not take much of it.
_REDRAWS_PER_SECOND = 2


@contextmanager
def progress_of(title: str, total: int, console: Console) -> Iterator[Callable[[Sample], None]]:
    """A line that moves with every sample given to the function it yields."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[output]} tokens[red]{task.fields[failed]}"),
    )
    bar = Progress(
        *columns,
        console=console,
        refresh_per_second=_REDRAWS_PER_SECOND,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=total, output=0, failed="")
        output = failed = 0

        def advance(sample: Sample) -> None:
            nonlocal output, failed
            output += sample.output_tokens or 0
            failed += not sample.ok
            shown = f", {failed} failed" if failed else ""
            bar.update(task, advance=1, output=output, failed=shown)

        yield advance
