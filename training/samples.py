"""Sample completions on the console, so that one sees what a model writes while it trains."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import PartialState
from tqdm.auto import tqdm

_WIDTH = 100  # columns of the console
_LONGEST = 300  # characters shown of one text


@dataclass(frozen=True)
class Sample:
    """A prompt, what the model wrote after it, and what it should have written if that is known."""

    prompt: str
    completion: str
    reference: str | None = None


def print_samples(title: str, samples: Sequence[Sample]) -> None:
    """Print `samples` under `title` above any progress bar; silent but on the main process.

    Long texts are cut in the middle: a prompt's end and a completion's start and end tell most.
    """
    if not PartialState().is_main_process:
        return
    parts = [f"--- {title}"]
    for sample in samples:
        parts.append(_labelled("prompt", sample.prompt))
        parts.append(_labelled("model", sample.completion))
        if sample.reference is not None:
            parts.append(_labelled("expected", sample.reference))
    tqdm.write("\n".join(parts))


def _labelled(label: str, text: str) -> str:
    lead = f"{label:>9}: "
    shown = _shortened(_printable(text)) or "(nothing)"
    return textwrap.fill(shown, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))


def _printable(text: str) -> str:
    """On one line, and without what would steer a terminal."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())
    )


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
