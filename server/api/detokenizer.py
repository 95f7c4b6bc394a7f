"""Text from tokens as they come: no broken characters, nothing after a stop string."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"
# A UTF-8 character has at most four bytes, so at most three of its bytes can be waiting.
_MAX_WAITING = 3
# Tokens without text (special ones, broken bytes) must not let the window grow.
_MAX_WINDOW = 64
# Emitted tokens that are decoded again with each new one; fewer would be cut off more often, which
# takes a decoding of its own.
_MAX_EMITTED = 8


class IncrementalDetokenizer:
    """Turns token ids into text one token at a time.

    Tokens are decoded in a window that begins with the tokens emitted last, since a decoder may
    treat the first token of a text differently (a leading space, for one). Bytes that may still
    become a character are held back; if the text ends there, they are dropped. Bytes that can no
    longer become one are U+FFFD, as in ``tokenizer.decode``.

    Args:
        tokenizer: decodes; special tokens are left out of the text.
        context: tokens in front of the first one, for a text that continues another.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: Sequence[int] = ()) -> None:
        self._decode_ids = _decoder(tokenizer)
        self._window = list(context)
        self._emitted = len(self._decode())
        self._waiting = 0

    def add(self, token_id: int) -> str:
        """The text that this token completes; "" while a character is incomplete."""
        self._window.append(token_id)
        self._waiting += 1
        text = self._decode()
        complete = self._complete_length(text)
        new_text = text[self._emitted : complete]
        if complete == len(text) and new_text:
            self._emitted = complete
            if len(self._window) > _MAX_EMITTED:
                self._window = self._window[-self._waiting :]
                self._emitted = len(self._decode())
            self._waiting = 0
            return new_text
        self._emitted = max(self._emitted, complete)
        if len(self._window) > _MAX_WINDOW:
            self._shorten(unshown=len(text) - self._emitted)
        return new_text

    def _shorten(self, unshown: int) -> None:
        self._window = self._window[-_MAX_WINDOW // 2 :]
        self._waiting = min(self._waiting, len(self._window))
        self._emitted = max(len(self._decode()) - unshown, 0)

    def _decode(self) -> str:
        return self._decode_ids(self._window) if self._window else ""

    def _complete_length(self, text: str) -> int:
        """Characters of `text` that further tokens cannot change."""
        end = len(text)
        # Some decoders write U+FFFD for every byte of a run with one incomplete character.
        undecided = end if self._waiting <= _MAX_WAITING else _MAX_WAITING
        floor = max(end - undecided, self._emitted)
        while end > floor and text[end - 1] == _REPLACEMENT:
            end -= 1
        return end


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    """Decodes without special tokens; by the Rust tokenizer itself where there is one, since
    transformers' wrapper takes longer than the decoding."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        return lambda ids: str(backend.decode(ids, skip_special_tokens=True))
    return lambda ids: str(
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


class StopStringScanner:
    """Lets text through up to the first stop string.

    Text that may be the beginning of a stop string is held until that is decided, so a stop
    string is found however it is split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The text that may be shown now; sets `stopped` once a stop string was met."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._undecided())

    def finish(self) -> str:
        """What was held when the text ends without a stop string."""
        return self._release(len(self._held)) if not self.stopped else ""

    def _release(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:size])
            ),
            default=0,
        )
