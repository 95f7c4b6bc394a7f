"""From what a teacher wrote to a rationale and a label."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

_QUOTES = " \t*`\"'"


class UnparsableError(ValueError):
    """An answer without a rationale or a label; the message says which."""


class Explained(NamedTuple):
    """An answer's two parts."""

    rationale: str
    label: str


@dataclass(frozen=True)
class AnswerFormat:
    """How an answer is read.

    It ends where the teacher begins to invent the next example: before the first of the words
    `stop` that begins a word there. The first of `markers`, in capitals or not, parts the rationale
    from the label, which goes to the end of its line without a final full stop, quotation marks or
    asterisks. Where `label_pattern` (a regular expression) is given, the label is what its first
    group matches in that, or all it matches if it has no group.

    Raises ValueError for no markers or a pattern that is none.
    """

    stop: list[str] = field(default_factory=lambda: ["Q:"])
    markers: list[str] = field(default_factory=lambda: ["So the answer is", "The answer is"])
    label_pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "markers"):
            if not all(word.strip() for word in getattr(self, name)):
                raise ValueError(f"{name} must hold words, got {getattr(self, name)!r}")
        if not self.markers:
            raise ValueError("markers must hold at least one, such as 'So the answer is'")
        try:
            re.compile(self.label_pattern or "")
        except re.error as error:
            raise ValueError(
                f"label_pattern {self.label_pattern!r} is no regular expression: {error}"
            ) from error

    def read(self, text: str, *, cut_off: bool = False) -> Explained:
        """The rationale and label of `text`; `cut_off` where it stopped for its length alone.

        Raises UnparsableError where one of them is missing, or the label may be cut off.
        """
        kept = self._before_next_example(text)
        ended = not cut_off or len(kept) < len(text)
        marker = re.search("|".join(map(_whole, self.markers)), kept, re.IGNORECASE)
        if marker is None:
            wanted = " or ".join(repr(word) for word in self.markers)
            raise UnparsableError(
                f"it does not say {wanted}" + ("" if ended else " before its end")
            )
        rationale = kept[: marker.start()].strip()
        if not rationale:
            raise UnparsableError(f"there is no rationale before {marker[0]!r}")
        line, newline, _ = kept[marker.end() :].lstrip(": \t\n").partition("\n")
        if not (ended or newline):
            raise UnparsableError(f"it was cut off behind {marker[0]!r}")
        return Explained(rationale, self._label(line, marker[0]))

    def _before_next_example(self, text: str) -> str:
        if not self.stop:
            return text
        words = "|".join(map(re.escape, self.stop))
        following = re.search(rf"(?<!\S)(?:{words})", text)
        return text[: following.start()] if following else text

    def _label(self, line: str, marker: str) -> str:
        label = line.strip(_QUOTES).removesuffix(".").strip(_QUOTES)
        if label and self.label_pattern:
            found = re.search(self.label_pattern, label)
            if found is None:
                raise UnparsableError(
                    f"{label!r} behind {marker!r} does not match {self.label_pattern}"
                )
            label = (found[1] if found.re.groups else found[0]) or ""
        if not label.strip():
            raise UnparsableError(f"there is no label behind {marker!r}")
        return label.strip()


def _whole(marker: str) -> str:
    """A pattern of the marker that is no part of a longer word."""
    return rf"(?<!\w){re.escape(marker)}" + (r"(?!\w)" if marker[-1].isalnum() else "")
