"""The answer of /v1/chat/completions."""

from dataclasses import dataclass, field
from typing import Any

from ..engine.request import TokenLogprob
from .chat_tools import ChatTools
from .context import ModelDesk
from .generation import Choice, Generation, Piece
from .logprobs import chat_logprobs
from .prompt_entry import PromptEntry
from .reply import Reply
from .tool_calls import CallDelta, Found
from .tool_reader import ToolReader


@dataclass(slots=True)
class _Message:
    """One choice's message as it gathers."""

    reader: ToolReader
    begun: bool = False
    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob | None] = field(default_factory=list)

    def add(self, found: Found) -> None:
        self.text += found.text
        for delta in found.calls:
            if delta.id is not None:
                function = {"name": delta.name, "arguments": ""}
                self.calls.append({"id": delta.id, "type": "function", "function": function})
            self.calls[delta.index]["function"]["arguments"] += delta.arguments


class ChatReply(Reply):
    """Writes a chat completion, with the calls that the text holds taken out of it."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(
        self,
        desk: ModelDesk,
        generation: Generation,
        entry: PromptEntry | None,
        tools: ChatTools,
        *,
        with_logprobs: bool,
    ) -> None:
        super().__init__(desk, generation, entry)
        self._with_logprobs = with_logprobs
        self._messages = [_Message(tools.reader(desk)) for _ in generation.choices]

    def gather(self, piece: Piece) -> None:
        message = self._messages[piece.choice]
        message.add(message.reader.read(piece))
        message.logprobs.append(piece.logprob)

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        gathered = self._messages[choice.index]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": gathered.text if gathered.text or not gathered.calls else None,
            "refusal": None,
        }
        if gathered.calls:
            message["tool_calls"] = gathered.calls
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(gathered.logprobs),
            "finish_reason": _reason(choice.finish_reason, gathered.reader),
        }

    def chunk_choice(self, piece: Piece) -> dict[str, Any]:
        message = self._messages[piece.choice]
        found = message.reader.read(piece)
        delta: dict[str, Any] = {"content": found.text}
        if found.calls:
            delta["tool_calls"] = [_written(call) for call in found.calls]
        if not message.begun:
            message.begun = True
            delta = {"role": "assistant", **delta}
        return {
            "index": piece.choice,
            "delta": delta,
            "logprobs": self._logprobs([piece.logprob]),
            "finish_reason": _reason(piece.finish_reason, message.reader),
        }

    def _logprobs(self, logprobs: list[TokenLogprob | None]) -> dict[str, Any] | None:
        return chat_logprobs(self.desk.token_texts, logprobs) if self._with_logprobs else None


def _reason(reason: str | None, reader: ToolReader) -> str | None:
    """OpenAI's word for an answer that ended with calls."""
    return "tool_calls" if reason == "stop" and reader.num_calls else reason


def _written(delta: CallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": delta.arguments}
    if delta.id is None:
        return {"index": delta.index, "function": function}
    return {
        "index": delta.index,
        "id": delta.id,
        "type": "function",
        "function": {"name": delta.name, **function},
    }
