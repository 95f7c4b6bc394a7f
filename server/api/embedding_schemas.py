"""Request body of /v1/embeddings."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from .base_schema import RequestBody
from .schemas import MAX_PROMPTS


class EmbeddingBody(RequestBody):
    """Body of POST /v1/embeddings."""

    model: str | None = Field(None, description="Default: the server's first model.")
    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="Text, token ids, or a list of either; each gets an embedding."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="Keep the first so many numbers, brought to length 1 again."
    )
    user: str | None = None

    @field_validator("input")
    @classmethod
    def _check_input(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("must not be empty")
        if isinstance(value, list) and len(value) > MAX_PROMPTS and not isinstance(value[0], int):
            raise ValueError(f"at most {MAX_PROMPTS} inputs are allowed in one request")
        return value

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        """The inputs one by one, each text or token ids."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return self.input
