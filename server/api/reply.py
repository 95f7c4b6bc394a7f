"""The answer to one generation request, whole or as a stream of events."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .context import ModelDesk
from .generation import Choice, Generation, Piece
from .prompt_entry import PromptEntry
from .schemas import GenerationBody
from .streaming import EventStream, EventTemplate, event, until_disconnect
from .usage import usage_of


class Reply(ABC):
    """Writes one generation in the form that chat and text completions share.

    Args:
        desk: the model that answers.
        generation: what it answers; started, and closed by `send`.
        entry: the registered prompt in use, if any.
    """

    kind: str
    chunk_kind: str
    id_prefix: str

    def __init__(self, desk: ModelDesk, generation: Generation, entry: PromptEntry | None) -> None:
        self.desk = desk
        self.generation = generation
        self._head: dict[str, Any] = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": desk.model.name,
            "system_fingerprint": desk.model.system_fingerprint,
        }
        if entry is not None:
            self._head["prompt_id"] = entry.record.id

    @abstractmethod
    def gather(self, piece: Piece) -> None:
        """Keeps a piece for the whole answer."""

    @abstractmethod
    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        """A finished choice, from what was gathered."""

    @abstractmethod
    def chunk_choice(self, piece: Piece) -> dict[str, Any]:
        """What a piece adds to its choice, for a stream."""

    async def send(self, request: Request, body: GenerationBody) -> Response:
        """The HTTP response. The generation ends with it, or when the client goes away."""
        close = self.generation.close
        if body.stream:
            return EventStream(self._events(body.include_usage, body.continuous_usage), close)
        return JSONResponse(await until_disconnect(request, self._whole(), close))

    async def _whole(self) -> dict[str, Any]:
        async for piece in self.generation.pieces():
            self.gather(piece)
        choices = self.generation.choices
        return self._head | {
            "object": self.kind,
            "choices": [self.whole_choice(choice) for choice in choices],
            "usage": usage_of(choices),
        }

    async def _events(self, include_usage: bool, continuous_usage: bool) -> AsyncIterator[bytes]:
        """One chunk a generated token, then the usage chunk if asked for.

        Chunks of tokens that came while the last ones were sent go out together.
        """
        head = self._head | {"object": self.chunk_kind}
        usage = {"usage": None} if include_usage else {}
        template = EventTemplate(head, "choices", usage)

        def chunk(piece: Piece) -> bytes:
            choices = [self.chunk_choice(piece)]
            if continuous_usage:
                return event(
                    head | {"choices": choices, "usage": usage_of(self.generation.choices)}
                )
            return template.event(choices)

        async for pieces in self.generation.batches():
            yield b"".join(map(chunk, pieces))
        if include_usage:
            yield event(head | {"choices": [], "usage": usage_of(self.generation.choices)})
