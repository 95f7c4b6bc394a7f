"""The grammars of one model: compiled off the event loop, kept while they are in use."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread

from ..engine.grammar import Grammar, GrammarError, GrammarVocabulary
from .errors import bad_value
from .served_models import ServedModel

_KEPT = 32


class Grammars:
    """Compiles JSON schemas and grammars for a model; the ones used last are kept."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._vocabulary: GrammarVocabulary | None = None
        self._lock = anyio.Lock()
        self._kept: OrderedDict[tuple[str, str], Grammar] = OrderedDict()

    async def json_schema(self, schema: Mapping[str, Any], param: str) -> Grammar:
        """Raises ApiError (400) naming `param` for a schema that cannot be used."""
        try:
            # In the order of its properties, since the answer follows it.
            key = ("json", json.dumps(schema))
        except RecursionError as error:
            raise bad_value(param, f"{param} is nested too deeply.") from error
        return await self._get(key, param, lambda vocabulary: vocabulary.json_schema(schema))

    async def lark(self, grammar: str, param: str) -> Grammar:
        """Raises ApiError (400) naming `param` for a grammar that cannot be used."""
        return await self._get(
            ("lark", grammar), param, lambda vocabulary: vocabulary.lark(grammar)
        )

    async def token_test(self) -> Callable[[str], bool]:
        """Tells whether a text is a special token, which a grammar must name as one.

        Raises ApiError (400) where the tokenizer cannot be used with grammars.
        """
        try:
            vocabulary = await self.vocabulary()
        except GrammarError as error:
            raise bad_value("tools", f"tools cannot be used: {error}.") from error
        known = self._model.tokenizer.get_vocab()
        return lambda text: text in known and vocabulary.is_special(known[text])

    async def vocabulary(self) -> GrammarVocabulary:
        """Raises GrammarError where the tokenizer cannot be used with grammars."""
        async with self._lock:
            if self._vocabulary is None:
                engine = self._model.engine
                self._vocabulary = await anyio.to_thread.run_sync(
                    GrammarVocabulary,
                    self._model.tokenizer,
                    engine.vocab_size,
                    engine.end_token_ids,
                )
            return self._vocabulary

    async def _get(
        self,
        key: tuple[str, str],
        param: str,
        compile_with: Callable[[GrammarVocabulary], Grammar],
    ) -> Grammar:
        grammar = self._kept.get(key)
        if grammar is None:
            try:
                vocabulary = await self.vocabulary()
                grammar = await anyio.to_thread.run_sync(compile_with, vocabulary)
            except GrammarError as error:
                raise bad_value(param, f"{param} cannot be used: {error}.") from error
            self._kept[key] = grammar
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return grammar
