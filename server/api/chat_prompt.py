"""From a conversation to the tokens that the engine computes."""

from collections.abc import Mapping, Sequence
from typing import Any

from .context import ApiContext, ModelDesk
from .errors import bad_value
from .generation import PreparedPrompt
from .prompt_entry import PromptEntry

_AND_TOOLS = " and tools (it was registered without any: leave them out, or register it with them)"


async def prepare_chat(
    context: ApiContext,
    desk: ModelDesk,
    entry: PromptEntry | None,
    messages: Sequence[dict[str, Any]],
    owner: str,
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    param: str = "messages",
) -> tuple[PromptEntry | None, PreparedPrompt]:
    """The registered prompt to use, and the tokens behind it.

    Args:
        entry: the prompt that the request names; without one a prompt that the messages begin
            with is looked for.
        messages: the request's own, which follow the prompt's.
        variables: values of the named prompt's variables.
        tools: as the chat template gets them.
        param: the field that the messages came in, for errors.

    Raises:
        ApiError: 400 for messages that the model's template refuses, or that break the prompt.
    """
    token_ids = await chat_token_ids(
        desk,
        entry,
        messages,
        generation_prompt=True,
        variables=variables,
        tools=tools,
        param=param,
    )
    if entry is not None:
        rest = entry.rest_of(token_ids)
        if rest is None:
            raise bad_value(
                param,
                f"The chat template of `{desk.model.name}` does not keep the prompt "
                f"`{entry.record.id}` as a token prefix when these messages"
                f"{_AND_TOOLS if tools and not entry.record.tools else ''} follow it.",
                "template_not_prefix",
            )
        return entry, entry.prepared(rest)
    matched = context.prompts.match(owner, desk.model, messages, token_ids)
    if matched is None:
        return None, PreparedPrompt(token_ids)
    entry, rest = matched
    return entry, entry.prepared(rest)


async def chat_token_ids(
    desk: ModelDesk,
    entry: PromptEntry | None,
    messages: Sequence[dict[str, Any]],
    *,
    generation_prompt: bool,
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    param: str = "messages",
) -> list[int]:
    """Tokens of the whole conversation, a registered prompt's messages and tools first."""
    if entry is not None:
        messages = [*entry.chat_messages(entry.values(variables)), *messages]
        tools = entry.record.tools or tools
    elif variables:
        raise bad_value("prompt.variables", "There is no prompt that these variables belong to.")
    return await desk.renderer.chat(
        messages, generation_prompt=generation_prompt, tools=tools, param=param
    )
