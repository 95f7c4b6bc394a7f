"""`gistserve bench`: measurements of running servers and of compressed prompts."""

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure quality, speed and memory."
)


@app.callback()
def bench() -> None:
    """Measure quality, speed and memory."""
