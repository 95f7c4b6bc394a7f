"""Request bodies of the prompt resource."""

import json
import math
import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from .base_schema import RequestBody
from .prompt_variables import NAME
from .schemas import Messages
from .tool_schemas import MAX_TOOLS, Tool

MAX_METADATA_BYTES = 16 * 1024
MAX_TTL_SECONDS = 10 * 366 * 86_400
_TTL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?s")


def ttl_seconds(ttl: str) -> int:
    """Whole seconds of a duration such as "3600s" or "1.5s" (rounded up).

    Raises ValueError for any other form, and for what is not between 0 and ten years.
    """
    if not _TTL.fullmatch(ttl):
        raise ValueError('must be seconds such as "3600s"')
    seconds = math.ceil(Decimal(ttl[:-1]))
    if not 0 < seconds <= MAX_TTL_SECONDS:
        raise ValueError("must be more than 0 seconds and at most ten years")
    return seconds


def _check_ttl(value: str | None) -> str | None:
    if value is not None:
        ttl_seconds(value)
    return value


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError("must be plain JSON of valid text and finite numbers") from error
    if len(written) > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return value


Ttl = Annotated[str | None, AfterValidator(_check_ttl)]
Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]


class PromptBody(RequestBody):
    """Body of POST /v1/prompts; exactly one of `messages` and `text`."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Makes the prompt a model of its own, `<model>/<name>`.",
    )
    model: str | None = Field(None, description="Default: the server's first model.")
    messages: Messages | None = Field(None, description="The leading turns of later chats.")
    text: str | None = Field(
        None, min_length=1, description="The beginning of later text completions."
    )
    tools: list[Tool] | None = Field(
        None,
        max_length=MAX_TOOLS,
        description="Functions that later chats may call, as in a chat; with `messages` only.",
    )
    compression: Literal["gist", "prefix", "auto"] = Field(
        "auto",
        description="`gist`: a few trained slots, lossy; `prefix`: the whole prompt, exact; "
        "`auto`: gist where the model has an adapter, else prefix.",
    )
    gist_tokens: int | None = Field(None, ge=1, description="Must be what the adapter makes.")
    ttl: Ttl = Field(
        None,
        description='Life time after registration and after each use, such as "3600s"; null: until '
        "deleted.",
    )
    metadata: Metadata = Field(default_factory=dict)
    variables: list[Annotated[str, Field(pattern=f"^{NAME}$")]] = Field(
        default_factory=list,
        max_length=32,
        description="Names of `{{name}}` in the content, whose values come with each request. "
        "What stands in front of the first one is compressed.",
    )
    auto_match: bool = Field(
        False, description="Use the gist also for chats that merely begin with these messages."
    )


class PromptPatch(RequestBody):
    """Body of PATCH /v1/prompts/{id}; what is absent stays.

    `ttl` or `expires_at`; null, for one or both, means that the prompt never expires.
    """

    ttl: Ttl = Field(None, description="Life time from now on, and after each use.")
    expires_at: int | None = Field(None, description="Unix seconds; use does not move it.")
    metadata: Metadata | None = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"ttl", "expires_at"})
