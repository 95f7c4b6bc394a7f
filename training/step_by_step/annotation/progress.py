"""A bar that tells how an annotation goes."""

from types import TracebackType

from tqdm.auto import tqdm

from .answer_format import AnswerFormat, UnparsableError
from .answers import Answer


class Progress:
    """Counts answers, those among them that cannot be read, and requests that were tried again."""

    def __init__(self, answer_format: AnswerFormat, total: int) -> None:
        self._format = answer_format
        self._unparsable = self._retries = 0
        self._bar = tqdm(total=total, desc="annotating", unit=" records", mininterval=1)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def count(self, answer: Answer) -> None:
        try:
            answer.read(self._format)
        except UnparsableError:
            self._unparsable += 1
        self._bar.update()
        self._tell()

    def count_retry(self) -> None:
        self._retries += 1
        self._tell(refresh=True)

    def _tell(self, refresh: bool = False) -> None:
        counts = {"unparsable": self._unparsable, "retries": self._retries}
        self._bar.set_postfix(counts, refresh=refresh)
