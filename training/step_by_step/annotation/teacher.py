"""What an annotation asks of a teacher."""

from collections.abc import Callable, Sequence
from typing import Protocol

from .answers import Answer

OnAnswer = Callable[[int, Answer], None]


class Teacher(Protocol):
    """Answers questions, in any order.

    `ask` calls `on_answer` with the index of each question and its answer, as they come. It raises
    AnnotationError where the teacher cannot be asked any further.
    """

    def ask(self, questions: Sequence[tuple[int, str]], on_answer: OnAnswer) -> None: ...
