"""Unknown names, told with the known one that was probably meant."""

import difflib
from collections.abc import Iterable


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The quoted name and the nearest known one, or all of them where none is near."""
    choices = list(known)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(choices)}"
    return f"{name!r}; {hint}"
