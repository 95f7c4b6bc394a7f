"""Sends requests and takes the time of what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import aiohttp

from .chunk import carries_token
from .events import EventDecoder
from .sample import Sample
from .target import Target
from .workload import LoadRequest

# Servers close idle connections after five seconds or more (uvicorn); a request that meets one
# while it is being closed fails, so idle connections are given up before.
_KEEPALIVE_SECONDS = 3.0
_MESSAGE_LENGTH = 300


class LoadClient:
    """Streams answers of one target over connections of its own.

    Parameters
    ----------
    target : where requests go.
    session : as `open_session` makes it.
    """

    def __init__(self, target: Target, session: aiohttp.ClientSession) -> None:
        self.target = target
        self._session = session
        self._url = target.url + target.endpoint.path

    async def send(self, request: LoadRequest, start: float, due: float | None = None) -> Sample:
        """One request from sending to the end of its answer; errors are told in the sample.

        `start` is the run's beginning on perf_counter's clock, `due` when the request should be
        sent, in seconds from there.
        """
        body = json.dumps(self.target.body(request)).encode()
        sent = perf_counter()
        late = 0.0 if due is None else max(0.0, sent - start - due)
        sample = Sample(sent - start, request.output_tokens, late)
        try:
            await self._stream(body, sent, sample)
        except _AnswerError as error:
            sample.error = str(error)
        except TimeoutError:
            sample.error = f"no answer within {self.target.timeout:g} s"
        except aiohttp.ClientError as error:
            sample.error = f"{type(error).__name__}: {error}"[:_MESSAGE_LENGTH]
        return sample

    async def _stream(self, body: bytes, sent: float, sample: Sample) -> None:
        async with await self._post(body) as response:
            if response.status != 200:
                raise _AnswerError(f"HTTP {response.status}: {_message(await response.read())}")
            decoder = EventDecoder()
            answer = _Answer(sample, sent)
            async for packet in response.content.iter_any():
                now = perf_counter()
                for data in decoder.feed(packet):
                    answer.take(data, now)
            answer.end()

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        """The answer's beginning.

        A request that finds its connection closed since the last answer is sent again, as HTTP
        clients do (RFC 9112, section 9.3.1); one that fails on a connection of its own is not.
        """
        headers = {"Content-Type": "application/json"}
        while True:
            connection = _Connection()
            try:
                return await self._session.post(
                    self._url, data=body, headers=headers, trace_request_ctx=connection
                )
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                if not connection.reused:
                    raise
                _stop_keeping_alive(self._session)


@asynccontextmanager
async def open_session(
    target: Target, keep_alive: bool = True
) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections to the target, as many as requests are in flight.

    Without `keep_alive`, or once the server has closed a connection that a `LoadClient` was to use
    again, every request gets a connection of its own.
    """
    timeout = aiohttp.ClientTimeout(total=target.timeout)
    connector = (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
        if keep_alive
        else aiohttp.TCPConnector(limit=0, force_close=True)
    )
    async with aiohttp.ClientSession(
        headers=target.headers,
        timeout=timeout,
        connector=connector,
        trace_configs=[_reuse_tracing()],
    ) as session:
        yield session


def keeps_alive(session: aiohttp.ClientSession) -> bool:
    """Whether requests of a session from `open_session` still share connections."""
    assert session.connector is not None
    return not session.connector.force_close and session.headers.get("Connection") != "close"


def _stop_keeping_alive(session: aiohttp.ClientSession) -> None:
    session.headers["Connection"] = "close"


@dataclass
class _Connection:
    """What a request went over."""

    reused: bool = False


def _reuse_tracing() -> aiohttp.TraceConfig:
    """Enters in a request's `_Connection`, where it has one, that it was used before."""

    async def reuse(_session: Any, context: SimpleNamespace, _parameters: Any) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reuse)
    return tracing


class _AnswerError(Exception):
    """The server answered, but with no whole answer."""


class _Answer:
    """Enters the events of one stream in a sample."""

    def __init__(self, sample: Sample, sent: float) -> None:
        self._sample = sample
        self._sent = sent
        self._last_token: float | None = None
        self._finished = False

    def take(self, data: bytes, now: float) -> None:
        """One event that arrived at `now`."""
        if data == b"[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise _AnswerError(f"an event is no JSON: {data[:80]!r}") from error
        if not isinstance(chunk, dict) or chunk.get("error") or chunk.get("object") == "error":
            raise _AnswerError(f"error in the stream: {_message(data)}")
        if usage := chunk.get("usage"):
            self._take_usage(usage)
        for choice in chunk.get("choices") or ():
            self._take_choice(choice, now)

    def _take_choice(self, choice: dict[str, Any], now: float) -> None:
        sample = self._sample
        if carries_token(choice):
            if self._last_token is None:
                sample.ttft = now - self._sent
            else:
                sample.itl.append(now - self._last_token)
            self._last_token = now
        sample.e2el = now - self._sent
        self._finished |= choice.get("finish_reason") is not None

    def _take_usage(self, usage: dict[str, Any]) -> None:
        sample = self._sample
        sample.prompt_tokens = usage.get("prompt_tokens")
        sample.output_tokens = usage.get("completion_tokens")
        details = usage.get("prompt_tokens_details") or {}
        sample.cached_tokens = details.get("cached_tokens")
        sample.gist_tokens = details.get("gist_tokens")

    def end(self) -> None:
        """The stream has ended; raises where the answer has not."""
        if not self._finished:
            raise _AnswerError("the stream ended before the answer")
        if self._sample.ttft is None:
            self._sample.ttft = self._sample.e2el


def _message(body: bytes) -> str:
    """The message in an error of OpenAI's shape, or the beginning of whatever it is."""
    try:
        error = json.loads(body)
        while isinstance(error, dict) and ("error" in error or "message" in error):
            error = error.get("error") or error["message"]
    except (ValueError, KeyError):
        error = body.decode("utf-8", "replace")
    return str(error).strip()[:_MESSAGE_LENGTH] or "(empty answer)"


async def get_json(session: aiohttp.ClientSession, url: str) -> Any:
    """Decoded JSON of a GET; None where there is no such answer."""
    try:
        async with session.get(url) as response:
            return await response.json(content_type=None) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
