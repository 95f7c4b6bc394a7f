"""Body of POST /v1/responses."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from .base_schema import RequestBody
from .errors import ApiError, bad_value
from .schemas import MAX_LOGPROBS, GenerationBody, JsonSchemaFormat, PromptReference, ResponseFormat
from .tool_schemas import MAX_TOOLS, FunctionName, FunctionSpec, NamedTool, Tool, ToolUse

LOGPROBS = "message.output_text.logprobs"
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXT_PARTS = ("input_text", "output_text", "text")


class TextFormat(JsonSchemaFormat):
    """`response_format` as this interface writes it: all in one object."""

    type: Literal["text", "json_object", "json_schema"]


class TextSettings(RequestBody):
    format: TextFormat | None = None


class ResponseTool(FunctionSpec):
    type: Literal["function"]


class ChosenFunction(FunctionName):
    type: Literal["function"]


class ResponseBody(GenerationBody):
    """Body of POST /v1/responses. Nothing is stored: send the whole conversation."""

    input: str | list[dict[str, Any]] | None = Field(
        None, description="Text, or items: messages, calls of functions and their outputs."
    )
    instructions: str | None = Field(None, description="A system message in front of `input`.")
    prompt: PromptReference | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextSettings | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = Field(None, description="Refused: nothing is stored.")

    def check_supported(self) -> None:
        """Raises ApiError (400) for what would otherwise be lost silently."""
        extra = self.model_extra or {}
        for name in ("previous_response_id", "conversation"):
            if self.previous_response_id if name == "previous_response_id" else extra.get(name):
                raise _unsupported(
                    name, "Responses are not stored; send the whole conversation as input."
                )
        if extra.get("background"):
            raise _unsupported("background", "Responses do not run in the background.")
        if self.n not in (None, 1):
            raise _unsupported("n", "A response has one choice.")
        if self.input is None and self.prompt is None and self.prompt_id is None:
            raise bad_value("input", "Give input, or a prompt.", "missing_required_parameter")

    @property
    def logprobs_wanted(self) -> int | None:
        if self.top_logprobs is None and LOGPROBS not in (self.include or ()):
            return None
        return self.top_logprobs or 0

    @property
    def format_wanted(self) -> ResponseFormat | None:
        wanted = self.text.format if self.text else None
        return ResponseFormat(type=wanted.type, json_schema=wanted) if wanted else None

    @property
    def chat_tools(self) -> list[Tool]:
        """The tools in the form of chat completions."""
        return [
            Tool(type="function", function=FunctionSpec(**tool.model_dump(exclude={"type"})))
            for tool in self.tools or ()
        ]

    def tool_use(self, tools: Sequence[Tool] | None) -> ToolUse:
        """What the request wants of these tools, its own or its prompt's."""
        choice = self.tool_choice
        if isinstance(choice, ChosenFunction):
            named = NamedTool(type="function", function=FunctionName(name=choice.name))
            return ToolUse(tools, named, self.parallel_tool_calls)
        return ToolUse(tools, choice, self.parallel_tool_calls)

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as a chat template reads it.

        Raises:
            ApiError: 400 naming the item that cannot be used.
        """
        items = self.input or []
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        messages: list[dict[str, Any]] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        for i, item in enumerate(items):
            _add_item(messages, item, f"input.{i}")
        return messages


def _add_item(messages: list[dict[str, Any]], item: dict[str, Any], param: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise bad_value(f"{param}.role", f"{param}.role must be one of {', '.join(_ROLES)}.")
        content = _text(item.get("content"), f"{param}.content")
        messages.append({"role": _ROLES[role], "content": content})
    elif kind == "function_call":
        names = ("call_id", "name", "arguments")
        call_id, name, arguments = (_string(item, key, param) for key in names)
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        if messages and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"].append(call)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif kind == "function_call_output":
        call_id = _string(item, "call_id", param)
        output = _text(item.get("output"), f"{param}.output")
        messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
    elif kind != "reasoning":  # other models' thoughts are no part of a chat template
        raise _unsupported(param, f"Items of type {json.dumps(kind)} are not supported.")


def _text(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise bad_value(param, f"{param} must be text or a list of parts.")
    for part in content:
        if (
            not isinstance(part, dict)
            or part.get("type") not in _TEXT_PARTS
            or not isinstance(part.get("text"), str)
        ):
            raise _unsupported(param, "Only parts of text are supported.")
    return "".join(part["text"] for part in content)


def _string(item: dict[str, Any], key: str, param: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise bad_value(f"{param}.{key}", f"{param}.{key} must be a string.")
    return value


def _unsupported(param: str, message: str) -> ApiError:
    return bad_value(param, message, "unsupported_parameter")
