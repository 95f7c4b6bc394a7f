"""What an annotation asks of a teacher."""

from collections.abc import Callable, Sequence
from typing import Protocol

from .answers import Answer
from .errors import AnnotationError

OnAnswer = Callable[[int, Answer], None]


class Teacher(Protocol):
    """Answers questions, in any order.

    `ask` calls `on_answer` with the index of each question and its answer, as they come. It raises
    AnnotationError where the teacher cannot be asked any further.
    """

    def ask(self, questions: Sequence[tuple[int, str]], on_answer: OnAnswer) -> None: ...


class RefusalGuard:
    """Holds back refusals until one question is answered, and stops if none is.

    A fault in all questions, such as demonstrations that are too long for the model, is thus told
    at once and can be mended, instead of being kept as an answer to every record. As OnAnswer it
    raises AnnotationError after `_MOST` refusals, and so does `close` if nothing but refusals came.
    """

    _MOST = 5

    def __init__(self, keep: OnAnswer, answered_before: bool) -> None:
        self._keep = keep
        self._answered = answered_before
        self._held: list[tuple[int, Answer]] = []

    def __call__(self, index: int, answer: Answer) -> None:
        self._answered = self._answered or answer.refused is None
        self._held.append((index, answer))
        if self._answered:
            for held in self._held:
                self._keep(*held)
            self._held.clear()
        elif len(self._held) == self._MOST:
            self.close()

    def close(self) -> None:
        if self._held:
            raise AnnotationError(f"every question was refused: {self._held[0][1].refused}")
