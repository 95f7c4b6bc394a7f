"""What a registration asks for, with its defaults filled in."""

from dataclasses import dataclass
from typing import Any

from ...compress.cache import Method
from .errors import bad_value
from .prompt_entry import identity_of
from .prompt_schemas import PromptBody, ttl_seconds
from .prompt_variables import check_names
from .schemas import plain_message
from .served_models import ServedModel
from .tool_schemas import for_template


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """A registration with its defaults filled in."""

    owner: str
    body: PromptBody
    method: Method
    gist_tokens: int
    messages: list[dict[str, Any]] | None
    tools: list[dict[str, Any]] | None
    identity: str


def plan_prompt(owner: str, model: ServedModel, body: PromptBody) -> PromptPlan:
    """Raises ApiError (400) for what contradicts itself, or cannot be made with this model."""
    if (body.messages is None) == (body.text is None):
        raise bad_value("messages", "Give either messages or text.")
    method, gist_tokens = _method(model, body)
    messages = [plain_message(m) for m in body.messages] if body.messages else None
    content = messages or body.text
    texts = [m["content"] for m in messages] if messages else [body.text or ""]
    check_names(body.variables, texts)
    tools = for_template(body.tools) if body.tools else None
    if tools and messages is None:
        raise bad_value("tools", "tools need messages: text is registered as it is.")
    identity = identity_of(owner, model.name, method, gist_tokens, content, body.variables, tools)
    return PromptPlan(owner, body, method, gist_tokens, messages, tools, identity)


def _method(model: ServedModel, body: PromptBody) -> tuple[Method, int]:
    """The method and its number of gist tokens; 400 where the model cannot make them."""
    if body.compression == "prefix" or (body.compression == "auto" and model.adapter is None):
        return "prefix", 0
    if model.adapter is None:
        raise bad_value(
            "compression",
            f'The model `{model.name}` has no gist adapter. Use compression "prefix" or '
            '"auto", or train an adapter with `gistserve train gist`.',
            "no_gist_adapter",
        )
    made = model.adapter.config.num_gist_tokens
    if body.gist_tokens not in (None, made):
        raise bad_value(
            "gist_tokens",
            f"The gist adapter of `{model.name}` makes {made} gist tokens, not {body.gist_tokens}.",
        )
    return "gist", made


def life(ttl: str | None, now: float) -> dict[str, Any]:
    """The fields of a record that say how long it lives from now on."""
    seconds = None if ttl is None else ttl_seconds(ttl)
    return {"ttl": seconds, "expires_at": None if seconds is None else int(now) + seconds}
