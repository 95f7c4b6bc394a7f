"""The tools that a request offers, and which of them the model may call."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from .base_schema import RequestBody
from .errors import bad_value

MAX_TOOLS = 128


class FunctionSpec(RequestBody):
    """A function that the client can run."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments.")
    strict: bool | None = None

    @property
    def arguments_schema(self) -> dict[str, Any]:
        return {"type": "object"} if self.parameters is None else self.parameters


class Tool(RequestBody):
    type: Literal["function"]
    function: FunctionSpec


def for_template(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as chat templates get them."""
    return [tool.model_dump(exclude_none=True) for tool in tools]


class FunctionName(RequestBody):
    name: str


class NamedTool(RequestBody):
    """The one function that the model must call."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class ToolUse:
    """What a request wants of tools.

    functions: the offered ones; rendered: as the chat template gets them; forced: those of which
    the answer must call one, empty where it need not; parallel: whether it may call several.
    """

    def __init__(
        self, tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool | None
    ) -> None:
        tools = tools or ()
        self.functions = [tool.function for tool in tools]
        self.rendered = for_template(tools)
        self.forced = self._forced(choice)
        self.parallel = parallel is not False and not isinstance(choice, NamedTool)
        self.strict = any(function.strict for function in self.functions)
        self.watched = bool(self.functions) and choice != "none"
        """Whether the answer is looked through for calls."""

    def _forced(self, choice: ToolChoice | None) -> list[FunctionSpec]:
        if choice is None or choice in ("none", "auto"):
            return []
        if not self.functions:
            raise bad_value("tool_choice", "tool_choice needs tools.")
        if not isinstance(choice, NamedTool):
            return self.functions
        name = choice.function.name
        named = [function for function in self.functions if function.name == name]
        if not named:
            raise bad_value("tool_choice", f"tool_choice names `{name}`, which is not in tools.")
        return named[:1]
