"""What a request's text must look like, as masks over the vocabulary (llguidance)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

WORD_BITS = 32

# Between JSON's tokens: a line break with its indentation, or up to two spaces. Without a bound a
# model may write blanks until its tokens are spent.
WHITESPACE = r"(\n {0,64}| {0,2})"

_LIMITS = LLParserLimits(verbose_errors=False)
_MAX_REASON = 300


class GrammarError(ValueError):
    """A schema or grammar that cannot be used; the message is the reason."""


class GrammarVocabulary:
    """A tokenizer's vocabulary, as grammars look at it. Takes up to seconds to make; threads may
    share it.

    Args:
        tokenizer: a fast tokenizer.
        vocab_size: tokens that the model knows.
        end_token_ids: tokens that end a text.

    Raises:
        GrammarError: the tokenizer is of another kind.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        end_token_ids: Iterable[int],
    ) -> None:
        self.size = max(vocab_size, len(tokenizer))
        ends = sorted(end_token_ids) or None
        try:
            self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, self.size, ends)
        except ValueError as error:
            raise GrammarError(
                f"the model's tokenizer cannot be used with grammars: {error}"
            ) from error

    def is_special(self, token_id: int) -> bool:
        """Whether the token is no text, so that a grammar must name it."""
        return bool(self._tokenizer.is_special_token(token_id))

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """The texts that are JSON of this schema. Takes up to a second: not for an event loop.

        Raises:
            GrammarError: the schema is wrong, or uses what is not supported.
        """
        try:
            written = json.dumps(with_whitespace(schema), allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise GrammarError("it must be plain JSON of finite numbers") from error
        return self._compile(LLMatcher.grammar_from_json_schema(written))

    def lark(self, grammar: str) -> Grammar:
        """The texts of a grammar in llguidance's dialect of Lark. Takes as long.

        Raises:
            GrammarError: the grammar is wrong.
        """
        return self._compile(LLMatcher.grammar_from_lark(grammar))

    def _compile(self, grammar: str) -> Grammar:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            # The first mask builds the automaton that all copies then share.
            fill_next_token_bitmask(matcher, _empty_mask(self.size))
        if matcher.is_error():
            raise GrammarError(" ".join(matcher.get_error().split())[:_MAX_REASON])
        return Grammar(matcher, self.size)


class Grammar:
    """Compiled; made by a ``GrammarVocabulary``, used by any number of requests."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def begin(self) -> TokenConstraint:
        """The constraint of one new text."""
        return TokenConstraint(self._matcher.deep_copy(), self._vocab_size)


class TokenConstraint:
    """Which tokens may follow in one text; one thread at a time."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self.num_words = -(-vocab_size // WORD_BITS)
        """Words of a mask."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow the text so far."""
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str | None:
        """Why the constraint can no longer tell what may follow, if so."""
        return str(self._matcher.get_error()) or None

    def accept(self, token_id: int) -> None:
        """Adds a token to the text; one that was not allowed leads to ``error``."""
        self._matcher.consume_token(token_id)

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Sets bit ``t % 32`` of word ``t // 32`` for each token ``t`` that may follow.

        Args:
            mask: [num_words], contiguous; all zero after an ``error``.
        """
        if self._matcher.is_error():
            mask[:] = 0
        else:
            fill_next_token_bitmask(self._matcher, mask[None])
            if self._matcher.is_error():
                mask[:] = 0


def with_whitespace(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the blanks that its texts may hold."""
    return {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}


def _empty_mask(vocab_size: int) -> NDArray[np.int32]:
    return np.zeros((1, -(-vocab_size // WORD_BITS)), dtype=np.int32)
