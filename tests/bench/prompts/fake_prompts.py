"""A server that keeps prompts, as far as its answers show."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gistserve.bench.load.client import LoadClient, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.target import Target
from gistserve.bench.load.words import TokensPerWord
from gistserve.bench.prompts.bench import Bench
from gistserve.bench.prompts.room import Room
from gistserve.bench.prompts.settings import PromptsSettings

from ..fake_server import DONE, FakeServer, StartServer, Step, data, text, usage

PROMPT_TOKENS = 100
GIST_SLOTS = 9
ROOM = Room(num_blocks=60, block_size=16, slot_bytes=8, max_model_len=1024)


class FakePrompts:
    """Registers prompts by their method, and reports `leak` cached tokens where none are named."""

    def __init__(self, start_server: StartServer, leak: int = 0) -> None:
        self._methods: dict[str, str] = {}
        self._leak = leak
        self.seconds: Callable[[int], float] = lambda prompts: 0.02
        """How long an answer takes, by the prompts that were registered before."""
        self.server: FakeServer = start_server(self._answer)
        self.server.documents["POST /v1/prompts"] = self._register

    def steps(self) -> list[str]:
        """What was asked for, in order; equal requests in a row count once."""
        steps: list[str] = []
        for method, path, body in self.server.requests:
            step = self._step(method, path, body)
            if step not in steps[-1:]:
                steps.append(step)
        return steps

    def _step(self, method: str, path: str, body: Any) -> str:
        if method == "DELETE":
            return f"delete {self._methods[path.rsplit('/', 1)[-1]]}"
        if path == "/v1/prompts":
            return f"register {body['compression']}"
        return f"ask {self._methods.get(body.get('prompt_id'), 'none')}"

    def _register(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt_id = f"p{len(self._methods)}"
        method = self._methods[prompt_id] = body["compression"]
        slots = GIST_SLOTS if method == "gist" else PROMPT_TOKENS
        self.server.documents[f"DELETE /v1/prompts/{prompt_id}"] = {}
        compression = {
            "method": method,
            "prompt_tokens": PROMPT_TOKENS,
            "slots": slots,
            "cache_bytes": slots * ROOM.slot_bytes,
        }
        return {"id": prompt_id, "compression": compression}

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        method = self._methods.get(body.get("prompt_id", ""))
        count = body["max_tokens"]
        cached = PROMPT_TOKENS if method else self._leak
        slots = GIST_SLOTS if method == "gist" else 0
        told = usage(PROMPT_TOKENS + 10, count, cached).replace(
            b'"cached_tokens"', b'"gist_tokens": %d, "cached_tokens"' % slots
        )
        words = [text("word") for _ in range(count - 1)]
        return 200, [
            self.seconds(len(self._methods)),
            b"".join([*words, text("end", "length"), told, data("[DONE]"), DONE]),
        ]

    def run(
        self, settings: PromptsSettings, job: Callable[[Bench], Awaitable[Any]], room: Room = ROOM
    ) -> Any:
        """The job's result, on this server."""

        async def main() -> Any:
            target = Target(self.server.url, "model", Endpoint.chat)
            async with open_session(target) as session:
                client = LoadClient(target, session)
                tokens = TokensPerWord(1.0)
                return await job(Bench(settings, client, session, tokens, room, print))

        return asyncio.run(main())
