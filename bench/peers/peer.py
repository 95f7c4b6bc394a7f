"""A server that takes part, and how it is found and started."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .plan import Plan

MODEL_NAME = "bench"
_VERSION_SECONDS = 300.0


class Peer(Protocol):
    """One kind of server.

    Attributes:
        name: as reports have it.
        program: the words that start it, without options.
        ready_path: answers with success as soon as the model is loaded.
        ignores_eos: knows the request field `ignore_eos`.
        tells_usage: counts tokens in streamed answers; of one that does not, a chunk is a token.
        reads_gguf: loads `Plan.gguf` instead of `Plan.folder`.
    """

    name: str
    program: Sequence[str]
    ready_path: str
    ignores_eos: bool
    tells_usage: bool
    reads_gguf: bool

    def options(self, plan: Plan, port: int) -> list[str]:
        """What follows the program's words, so that it listens on 127.0.0.1."""
        ...

    def model(self, plan: Plan) -> str:
        """Name of the model in requests."""
        ...

    def version(self) -> str:
        """Of the program that was found."""
        ...


@dataclass(frozen=True)
class Missing:
    """A peer that is not here, and how to get it."""

    name: str
    reason: str


def output_of(command: Sequence[str]) -> str:
    """What a short command prints, errors too; its last words if it fails or is not there."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"{done.stdout}\n{done.stderr}".strip()
