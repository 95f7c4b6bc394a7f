"""The data of a stage: token stores opened, mixed and packed; its length in steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from platformdirs import user_cache_path
from transformers import PreTrainedTokenizerBase

from ..config import ConfigError
from .batches import Batches
from .config import ContinualConfig
from .evaluation import HeldOut, held_out
from .mixing import Mixture, mixture_weights
from .objective import Objective
from .packing import PackedRows
from .source import Source
from .tokens import TokenStore, open_store


@dataclass(frozen=True)
class StageData:
    """Token stores of a stage, in the order of the mixture: replayed sources, then new ones."""

    config: ContinualConfig
    sources: list[Source]
    stores: list[TokenStore]
    validation: list[TokenStore]

    @property
    def total_steps(self) -> int:
        """Steps of the stage; by default one pass over the new sources, replay counted in."""
        config = self.config
        if config.max_steps is not None:
            return config.max_steps
        new = sum(store.tokens for store in self.stores[len(self._replay) :])
        tokens = config.tokens if config.tokens is not None else new
        return max(1, math.ceil(tokens / (config.batch_size * config.sequence_length)))

    @property
    def mixture(self) -> Mixture:
        """How rows are dealt. ConfigError for shares that do not go together."""
        replay = len(self._replay)
        old = _shares(self.sources[:replay], self.stores[:replay])
        new = _shares(self.sources[replay:], self.stores[replay:])
        weights = mixture_weights(self.config.replay_ratio, old, new)
        return Mixture(weights, self.config.batch_size, self.config.seed)

    def batches(self, objective: Objective) -> Batches:
        """The batches of every step."""
        rows = [self._rows(*pair) for pair in zip(self.sources, self.stores, strict=True)]
        return Batches(self.mixture, rows, objective, self.config.seed)

    def held_out(self, objective: Objective) -> dict[str, HeldOut]:
        """The validation rows of every validation source, by its name."""
        pairs = zip(self.config.validation, self.validation, strict=True)
        limit = self.config.eval_rows
        return {
            source.name: held_out(self._rows(source, store), source.group, objective, limit)
            for source, store in pairs
        }

    @property
    def _replay(self) -> list[Source]:
        return replayed(self.config)

    def _rows(self, source: Source, store: TokenStore) -> PackedRows:
        length = self.config.sequence_length
        return PackedRows(store, length, shuffle=source.shuffle, order_seed=source.order_seed)


def replayed(config: ContinualConfig) -> list[Source]:
    """The sources that are replayed: none at a ratio of 0."""
    return config.replay if config.replay_ratio else []


def open_stage_data(config: ContinualConfig, tokenizer: PreTrainedTokenizerBase) -> StageData:
    """Tokenise what is not tokenised yet, one process of each machine, and open all stores."""
    cache = Path(config.token_cache or user_cache_path("gistserve") / "tokens")
    sources = [*replayed(config), *config.new]

    def opened(source: Source) -> TokenStore:
        return open_store(source, tokenizer, cache, progress=config.progress)

    with PartialState().local_main_process_first():
        stores = [opened(source) for source in sources]
        validation = [opened(source) for source in config.validation]
    return StageData(config, sources, stores, validation)


def _shares(sources: Sequence[Source], stores: Sequence[TokenStore]) -> list[float]:
    given = [source.share for source in sources]
    if all(share is None for share in given):
        return [float(store.tokens) for store in stores]
    if any(share is None for share in given):
        raise ConfigError("share must be given for all of new (or replay), or for none of them")
    return [share for share in given if share is not None]
