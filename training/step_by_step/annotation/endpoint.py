"""A teacher behind an OpenAI-compatible interface."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from .answers import Answer
from .config import AnnotationConfig
from .demonstrations import FewShot
from .errors import AnnotationError
from .retries import TransientError, retry_after, with_retries
from .teacher import OnAnswer

_MOST_STOPS = 4  # OpenAI takes no more
_TRANSIENT = {408, 409, 425, 429}
_REFUSED = {400, 413, 422}

_NOT_FOUND = (
    "; is the model's name right, and does the url end where /chat/completions or /completions "
    "follows, as in http://127.0.0.1:8000/v1?"
)


class RefusedError(Exception):
    """The interface will not answer this question, however often it is asked."""


class Endpoint:
    """A Teacher. `on_retry` is called whenever a request is going to be tried again."""

    def __init__(
        self, config: AnnotationConfig, few_shot: FewShot, on_retry: Callable[[], None]
    ) -> None:
        assert config.url is not None
        self._config = config
        self._few_shot = few_shot
        self._on_retry = on_retry
        self._chat = config.api == "chat"
        path = "chat/completions" if self._chat else "completions"
        self._address = f"{config.url.rstrip('/')}/{path}"

    def ask(self, questions: Sequence[tuple[int, str]], on_answer: OnAnswer) -> None:
        """See Teacher."""
        try:
            asyncio.run(self._ask(questions, on_answer))
        except ExceptionGroup as failures:  # of the workers: one of them ended all
            raise failures.exceptions[0] from None

    async def _ask(self, questions: Sequence[tuple[int, str]], on_answer: OnAnswer) -> None:
        key = os.environ.get(self._config.api_key_variable)
        limits = httpx.Limits(max_connections=self._config.concurrency)
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        # How long a request may take is bounded as a whole, not from byte to byte.
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=None) as client:
            rest = iter(questions)
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._config.concurrency):
                    workers.create_task(self._work(client, rest, on_answer))

    async def _work(
        self, client: httpx.AsyncClient, rest: Iterator[tuple[int, str]], on_answer: OnAnswer
    ) -> None:
        for index, question in rest:
            on_answer(index, await self._answer(client, question))

    async def _answer(self, client: httpx.AsyncClient, question: str) -> Answer:
        body = self._body(question)
        try:
            choice = await with_retries(
                lambda: self._request(client, body), self._config.retries, self._on_retry
            )
        except TransientError as error:
            raise AnnotationError(
                f"{self._address} gave no answer in {self._config.retries + 1} tries; the last "
                f"time: {error}"
            ) from error
        except RefusedError as error:
            return Answer("", refused=str(error))
        return Answer(self._text(choice), choice.get("finish_reason") == "length")

    def _body(self, question: str) -> bytes:
        config = self._config
        prompt: dict[str, Any] = {"prompt": self._few_shot.text(question)}
        if self._chat:
            prompt = {"messages": self._few_shot.messages(question)}
        stops = [f"\n{word}" for word in self._few_shot.format.stop]
        body = {
            "model": config.model,
            **prompt,
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "seed": config.seed if config.temperature else None,
            "stop": stops[:_MOST_STOPS] or None,
        } | config.body
        return json.dumps(
            {name: value for name, value in body.items() if value is not None}
        ).encode()

    async def _request(self, client: httpx.AsyncClient, body: bytes) -> dict[str, Any]:
        """The first choice of an answer. Raises TransientError, RefusedError, AnnotationError."""
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await client.post(self._address, content=body)
        except TimeoutError as error:
            raise TransientError(f"no answer within {self._config.timeout:g} s") from error
        except httpx.RequestError as error:
            raise TransientError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if not response.is_success:
            raise self._failure(response)
        try:
            choice = response.json()["choices"][0]
            self._text(choice)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise TransientError(f"it answered with {response.text[:200]!r}") from error
        assert isinstance(choice, dict)
        return choice

    def _failure(self, response: httpx.Response) -> Exception:
        status, said = response.status_code, _message(response)
        text = f"it answered {status}: {said}"
        if status in _TRANSIENT or status >= 500:
            return TransientError(text, retry_after(response.headers.get("Retry-After")))
        if status in _REFUSED:
            return RefusedError(said)
        key = f"; is the key in ${self._config.api_key_variable} right?"
        remedies = {401: key, 403: key, 404: _NOT_FOUND}
        remedy = remedies.get(status, "")
        if response.has_redirect_location:
            remedy = f"; it points to {response.headers['Location']}"
        return AnnotationError(f"{self._address}: {text}{remedy}")

    def _text(self, choice: dict[str, Any]) -> str:
        """Empty where a filter held the answer back. Raises TypeError where there is no text."""
        text = choice["message"].get("content") if self._chat else choice["text"]
        if text is not None and not isinstance(text, str):
            raise TypeError
        return text or ""


def _message(response: httpx.Response) -> str:
    """The message inside an OpenAI-shaped error, or the beginning of whatever came instead."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.text[:200] or "(nothing)"
