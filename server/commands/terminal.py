"""What all commands share of the terminal: two consoles and one way to fail."""

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

_WIDE = 200  # columns, for files and pipes: rich would cut tables to 80

out = Console(width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True)


def fail(message: str, *, remedy: str = "", code: int = 1) -> NoReturn:
    """End the command with one line on stderr and the exit code; no traceback.

    `remedy` says what the user can do about it and follows the message.
    """
    text = f"{message} {remedy}".strip()
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)
