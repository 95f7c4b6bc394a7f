"""The two interfaces that load can be put on."""

from enum import StrEnum


class Endpoint(StrEnum):
    """Text or chat completions."""

    completions = "completions"
    chat = "chat"

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self is Endpoint.chat else "/v1/completions"
