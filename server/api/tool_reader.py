"""Reads text and calls out of one choice's tokens."""

from collections.abc import Mapping

from .generation import Piece
from .tool_calls import Found, ToolCallParser


class ToolReader:
    """Gives a parser all that a choice says; without one all of it is text.

    Args:
        parser: finds the calls.
        marks: texts of the special tokens that the parser looks for, by their ids; other text
            leaves them out.
    """

    def __init__(self, parser: ToolCallParser | None, marks: Mapping[int, str]) -> None:
        self._parser = parser
        self._marks = marks

    @property
    def num_calls(self) -> int:
        return self._parser.num_calls if self._parser else 0

    def read(self, piece: Piece) -> Found:
        """What the piece adds; the last one also brings what was held back."""
        if self._parser is None:
            return Found(piece.text)
        mark = self._marks.get(piece.token_id, "") if piece.token_id is not None else ""
        found = self._parser.add(mark + piece.text)
        if piece.finish_reason is None:
            return found
        rest = self._parser.finish()
        return Found(found.text + rest.text, found.calls + rest.calls)
