"""Log-probabilities in the forms of the chat and of the completions interface."""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..engine.request import TokenLogprob

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT = "\ufffd"
# JSON has no -Infinity; this is what OpenAI and vLLM answer for an impossible token.
_LOWEST = -9999.0


class TokenTexts:
    """The text and bytes of single tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, list[int]]] = {}

    def __call__(self, token_id: int) -> tuple[str, list[int]]:
        """Text and UTF-8 bytes; a token that is no whole character reads ``bytes:\\xe2\\x82``."""
        if token_id not in self._known:
            self._known[token_id] = self._look_up(token_id)
        return self._known[token_id]

    def _look_up(self, token_id: int) -> tuple[str, list[int]]:
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        text = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        if not isinstance(piece, str):
            return text, list(text.encode())
        if piece.startswith("▁") and not text.startswith(" "):
            text = " " + text
        raw = _piece_bytes(piece) if _REPLACEMENT in text else None
        if raw is None:
            return text, list(text.encode())
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), list(raw)


def chat_logprobs(texts: TokenTexts, logprobs: Iterable[TokenLogprob | None]) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat completion."""
    return {
        "content": [
            _chat_entry(texts, entry.token_id, entry.logprob)
            | {"top_logprobs": [_chat_entry(texts, *pair) for pair in entry.top]}
            for entry in logprobs
            if entry is not None
        ],
        "refusal": None,
    }


def completion_logprobs(
    texts: TokenTexts,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprob | None],
    start_offset: int = 0,
) -> dict[str, Any]:
    """``choices[].logprobs`` of a text completion.

    logprobs: one entry a token, None where nothing was predicted (an echoed prompt's first).
    start_offset: characters of the choice's text in front of the first token.
    """
    tokens = [texts(token_id)[0] for token_id in token_ids]
    offsets, offset = [], start_offset
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(entry.logprob) if entry else None for entry in logprobs],
        "top_logprobs": [_top(texts, entry) if entry else None for entry in logprobs],
        "text_offset": offsets,
    }


def _top(texts: TokenTexts, entry: TokenLogprob) -> dict[str, float]:
    """Alternatives by text, best first, with the token itself among them."""
    pairs = [*entry.top, (entry.token_id, entry.logprob)]
    best: dict[str, float] = {}
    for token_id, logprob in pairs:
        best.setdefault(texts(token_id)[0], _finite(logprob))
    return best


def _chat_entry(texts: TokenTexts, token_id: int, logprob: float) -> dict[str, Any]:
    text, raw = texts(token_id)
    return {"token": text, "logprob": _finite(logprob), "bytes": raw}


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)


def _piece_bytes(piece: str) -> bytes | None:
    """Bytes of a byte-fallback token ("<0xE2>") or of a byte-level one ("âĤ"), else None."""
    if match := _BYTE_TOKEN.fullmatch(piece):
        return bytes([int(match[1], 16)])
    table = _byte_level_table()
    if all(char in table for char in piece):
        return bytes(table[char] for char in piece)
    return None


@functools.cache
def _byte_level_table() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}
