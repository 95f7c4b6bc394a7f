"""`gistserve demo`: the whole job on the embedded model, measured."""

from typing import Annotated

import typer


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Serve the embedded model, compress a long prompt into gists and chat through it."""
