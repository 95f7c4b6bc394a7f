"""The server under load, and how it is spoken to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .endpoint import Endpoint
from .workload import LoadRequest


@dataclass(frozen=True)
class Target:
    """One model of one OpenAI-compatible server.

    Attributes:
        url: address, without `/v1`.
        model: its name there.
        ignore_eos: ask for answers of full length (not every server knows the field).
        timeout: seconds that one request may take.
    """

    url: str
    model: str
    endpoint: Endpoint
    api_key: str | None = None
    ignore_eos: bool = True
    timeout: float = 600.0

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def body(self, request: LoadRequest) -> dict[str, Any]:
        """The request's JSON: greedy, streamed, with usage."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
        if request.prompt_id is not None:
            body["prompt_id"] = request.prompt_id
        shared = request.prompt if request.prompt_id is None else ""
        if self.endpoint is Endpoint.completions:
            return body | {"prompt": shared_text(shared) + request.input}
        system = [{"role": "system", "content": shared}] if shared else []
        return body | {"messages": [*system, {"role": "user", "content": request.input}]}


def shared_text(prompt: str) -> str:
    """A shared prompt as text completions begin with it: ended where a token ends."""
    return f"{prompt}\n" if prompt else ""
