"""Ties a request's tools to its model: what is rendered, enforced and looked for."""

from dataclasses import dataclass
from typing import Any

from ..engine.grammar import Grammar
from .context import ModelDesk
from .schemas import ResponseFormat
from .tool_calls import ToolCallParser
from .tool_format import ToolFormat
from .tool_reader import ToolReader
from .tool_schemas import ToolUse


@dataclass(frozen=True, slots=True)
class ChatTools:
    """The tools of one request with the model's way to call them.

    rendered: what the chat template gets; form: None where no call is looked for.
    """

    use: ToolUse
    rendered: list[dict[str, Any]] | None = None
    form: ToolFormat | None = None

    @classmethod
    def of(cls, desk: ModelDesk, use: ToolUse) -> "ChatTools":
        """Raises ApiError (400) where the model cannot do what the request needs."""
        if use.watched:
            return cls(use, use.rendered, desk.renderer.known_tool_format())
        return cls(use, use.rendered if desk.renderer.tool_format and use.rendered else None)

    def reader(self, desk: ModelDesk) -> ToolReader:
        """For one choice's tokens."""
        if self.form is None:
            return ToolReader(None, {})
        names = {function.name for function in self.use.functions}
        parser = ToolCallParser(self.form, names, self.use.parallel)
        return ToolReader(parser, desk.renderer.hidden_marks)

    async def grammar(
        self, desk: ModelDesk, wanted: ResponseFormat | None, param: str = "response_format"
    ) -> Grammar | None:
        """What the answer must look like; None for any text.

        An answer that may be a call or a text in a wanted format is kept to the two. A free one is
        kept to what strict functions take, and to one call where more are not wanted.

        Args:
            param: the field that the format came in, for errors.

        Raises:
            ApiError: 400 for a schema that cannot be used.
        """
        if self.form is None:
            return await desk.grammar_of(wanted, param)
        use = self.use
        schema = wanted.schema_wanted if wanted and not use.forced else None
        if use.forced or schema is not None:
            functions = use.forced or use.functions
            is_token = await desk.grammars.token_test()
            grammar = self.form.grammar(functions, use.parallel, is_token, schema)
        elif use.strict or not use.parallel:
            is_token = await desk.grammars.token_test()
            grammar = self.form.free_grammar(use.functions, use.parallel, is_token)
        else:
            return None
        return await desk.grammars.lark(grammar, "tools")
