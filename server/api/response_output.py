"""The items of a response, and the events that tell of them."""

import uuid
from collections.abc import Iterator
from typing import Any

from .tool_calls import CallDelta, Found

Event = dict[str, Any]


class ResponseOutput:
    """Gathers a response's output; each method yields the events of what it adds, in the
    official order. (Their sequence numbers are given by who sends them.)"""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._is_open = False
        self._logprobs: list[dict[str, Any]] = []

    def add(self, found: Found, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        """New text and new parts of calls.

        logprobs: of the tokens that brought them; those of a token without text of its own go
        with the next text.
        """
        self._logprobs += logprobs
        if found.text:
            if not self._is_open or self._item["type"] != "message":
                yield from self._open(_message())
            yield self._add_text(found.text)
        for delta in found.calls:
            if delta.id is not None:
                yield from self._open(_call(delta))
            if delta.arguments:
                self._item["arguments"] += delta.arguments
                yield self._event(
                    "function_call_arguments.delta",
                    item_id=self._item["id"],
                    delta=delta.arguments,
                )

    def finish(self, status: str) -> Iterator[Event]:
        """Closes what is open with this status; an answer without anything is an empty message."""
        if not self.items:
            yield from self._open(_message())
        yield from self._close(status)

    @property
    def _item(self) -> dict[str, Any]:
        return self.items[-1]

    def _open(self, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._close("completed")
        self.items.append(item)
        self._is_open = True
        if not _is_text(item):
            yield self._event("output_item.added", item=item)
        else:
            yield self._event("output_item.added", item={**item, "content": []})
            yield self._part_event("content_part.added", part=_part())

    def _close(self, status: str) -> Iterator[Event]:
        if not self._is_open:
            return
        self._is_open = False
        item = self._item
        item["status"] = status
        if _is_text(item):
            (part,) = item["content"]
            yield self._part_event("output_text.done", text=part["text"], logprobs=part["logprobs"])
            yield self._part_event("content_part.done", part=part)
        else:
            yield self._event(
                "function_call_arguments.done",
                item_id=item["id"],
                name=item["name"],
                arguments=item["arguments"],
            )
        yield self._event("output_item.done", item=item)

    def _add_text(self, text: str) -> Event:
        (part,) = self._item["content"]
        logprobs, self._logprobs = self._logprobs, []
        part["text"] += text
        part["logprobs"] += logprobs
        return self._part_event("output_text.delta", delta=text, logprobs=logprobs)

    def _part_event(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self._item["id"], content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", "output_index": len(self.items) - 1, **fields}


def _is_text(item: dict[str, Any]) -> bool:
    return bool(item["type"] == "message")


def _message() -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [_part()],
    }


def _part() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _call(delta: CallDelta) -> dict[str, Any]:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": delta.id,
        "name": delta.name,
        "arguments": "",
    }
