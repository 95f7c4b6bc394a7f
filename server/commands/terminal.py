"""What all commands share of the terminal: two consoles, one way to wait and one to fail."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

_WIDE = 200  # columns, for files and pipes: rich would cut tables to 80

out = Console(width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal, while the block runs, what is waited for and how long already."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        progress.add_task(escape(what), total=None)
        yield


def fail(message: str, *, remedy: str = "", code: int = 1) -> NoReturn:
    """End the command with one line on stderr and the exit code; no traceback.

    `remedy` says what the user can do about it and follows the message.
    """
    text = f"{message} {remedy}".strip()
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)
