"""Finds calls of tools in an answer while it is written."""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from .tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What is new of one call: its first delta carries id and name, all some of its arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class Found:
    """What a part of an answer says: text for the reader, and calls."""

    text: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class ToolCallParser:
    """Splits an answer into text and calls, however it is cut.

    A call of a function that was not offered, or that is no proper JSON, stays text. Blanks
    around calls are dropped.

    Args:
        form: how the model writes calls.
        names: the offered functions.
        parallel: whether calls after the first count; else they are dropped.
    """

    def __init__(self, form: ToolFormat, names: Collection[str], parallel: bool = True) -> None:
        self._form = form
        self._names = names
        self._parallel = parallel
        self._header = _header(form)
        self._held = ""
        self._value = JsonObjectEnd()
        self._step = self._in_text if form.begin else self._at_start
        self.num_calls = 0

    def add(self, text: str) -> Found:
        """What the answer says so far that it had not said before."""
        self._held += text
        found = Found()
        while self._step(found):
            pass
        return found

    def finish(self) -> Found:
        """What was held back when the answer ends."""
        found = self.add("")
        if self._step in (self._in_call, self._at_start):
            if not self._whole_call(self._held, found):
                found.text += self._form.begin * (self._step == self._in_call) + self._held
        elif self._step == self._in_text and (self._held.strip() or not self.num_calls):
            found.text += self._held
        self._held = ""
        return found

    # Each step takes from what is held, and tells whether another may go on with the rest.

    def _at_start(self, found: Found) -> bool:
        """Before an answer that may be a call as a whole."""
        begun = self._held.lstrip()
        for mark in self._form.ignored:
            if begun.startswith(mark):
                begun = begun.removeprefix(mark).lstrip()
            elif mark.startswith(begun):
                return False
        if not begun:
            return False
        self._step = self._in_call if begun.startswith("{") else self._in_rest
        return True

    def _in_rest(self, found: Found) -> bool:
        """Text in which no call can follow."""
        found.text += self._take(len(self._held))
        return False

    def _in_text(self, found: Found) -> bool:
        begin = self._form.begin
        at = self._held.find(begin)
        if at >= 0:
            found.text += self._take(at).rstrip()
            self._take(len(begin))
            self._step = self._in_call
            return True
        held = max((n for n in range(1, len(begin)) if self._held.endswith(begin[:n])), default=0)
        shown = self._held[: len(self._held) - held].rstrip()
        found.text += self._take(len(shown))
        return False

    def _in_call(self, found: Found) -> bool:
        """Behind the mark that opens a call."""
        header = self._header.match(self._held)
        if header and header["name"] in self._names:
            self._take(header.end())
            self._value = JsonObjectEnd()
            self._open(header["name"], found)
            self._step = self._in_arguments
            return True
        end = self._held.find(self._form.end) if self._form.end else -1
        if end < 0:
            return False
        body = self._take(end)
        self._take(len(self._form.end))
        if not self._whole_call(body, found):
            found.text += f"{self._form.begin}{body}{self._form.end}"
        self._step = self._in_text
        return True

    def _in_arguments(self, found: Found) -> bool:
        end = self._value.find(self._held)
        part = self._take(len(self._held) if end is None else end)
        if part:
            self._say(part, found)
        if end is None:
            return False
        self._step = self._behind_arguments
        return True

    def _behind_arguments(self, found: Found) -> bool:
        """The rest of the call, which says nothing more."""
        mark = self._form.end or "}"
        at = self._held.find(mark)
        if at < 0:
            return False
        self._take(at + len(mark))
        self._step = self._in_text if self._form.begin else self._in_rest
        return True

    def _whole_call(self, body: str, found: Found) -> bool:
        """Takes a finished call whose keys stand in another order; False where it is none."""
        body = body.strip()
        for mark in self._form.ignored:
            body = body.removeprefix(mark)
        try:
            call = json.loads(body)
        except ValueError:
            return False
        if not isinstance(call, dict) or call.get("name") not in self._names:
            return False
        arguments = call.get(self._form.arguments) or {}
        if not isinstance(arguments, dict):
            return False
        self._open(call["name"], found)
        self._say(json.dumps(arguments, ensure_ascii=False), found)
        return True

    def _open(self, name: str, found: Found) -> None:
        self.num_calls += 1
        if self._counts:
            call_id = f"call_{uuid.uuid4().hex[:24]}"
            found.calls.append(CallDelta(self.num_calls - 1, "", call_id, name))

    def _say(self, arguments: str, found: Found) -> None:
        if self._counts:
            found.calls.append(CallDelta(self.num_calls - 1, arguments))

    @property
    def _counts(self) -> bool:
        return self._parallel or self.num_calls == 1

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


class JsonObjectEnd:
    """Finds where a JSON object ends that comes in parts."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, part: str) -> int | None:
        """The index behind the object's last character in this part, if it is there."""
        for i, character in enumerate(part):
            if self._in_string:
                self._read_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return i + 1
        return None

    def _read_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False


def _header(form: ToolFormat) -> re.Pattern[str]:
    ignored = "|".join(re.escape(mark) for mark in form.ignored)
    return re.compile(
        rf"\s*(?:{ignored})?"
        r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"' + form.arguments + r'"\s*:\s*(?=\{)'
    )
