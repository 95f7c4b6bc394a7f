"""Rows of a text corpus for minillm's language-modelling loss."""

from collections.abc import Callable
from itertools import chain

from accelerate import PartialState
from platformdirs import user_cache_path
from transformers import PreTrainedTokenizerBase

from ..continual.packing import PackedRows
from ..continual.source import Source, SourceError
from ..continual.tokens import TokenStoreError, open_store
from ..records import DataError

LanguageRows = Callable[[int], list[int]]
"""Row i (0, 1, ...; endless) as token ids of one fixed length: a pure function of i."""


def language_rows(
    source: Source, tokenizer: PreTrainedTokenizerBase, length: int, seed: int
) -> LanguageRows:
    """Documents of `source` one behind the other, cut into rows of `length` tokens.

    Tokenised once, to the user's cache directory. Raises DataError.
    """
    cache = user_cache_path("gistserve") / "tokens"
    try:
        with PartialState().local_main_process_first():
            store = open_store(source, tokenizer, cache)
    except (SourceError, TokenStoreError) as error:
        raise DataError(f"lm_data: {error}") from error
    rows = PackedRows(store, length, shuffle=source.shuffle, order_seed=source.order_seed + seed)
    return lambda index: list(chain.from_iterable(p.tokens.tolist() for p in rows.row(index)))
