"""From model names on the command line to running engines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...compress.adapter import GistAdapter
from ...compress.config import GistAdapterError, GistConfig
from ...compress.fingerprint import differing_parts, model_fingerprint, with_adapter
from ..api.served_models import ServedModel
from ..engine.config import EngineConfig
from ..engine.engine import Engine
from ..engine.loader import load_model
from ..engine.pooling import LAST_TOKEN, pooling_of
from .model_options import Dtype, ModelOptions

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Loaded:
    options: ModelOptions
    config: EngineConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    @property
    def name(self) -> str:
        return self.options.source.name


def load_served_models(
    models: Sequence[ModelOptions],
    adapter_folders: Sequence[Path],
    base: EngineConfig,
    report: Report,
    *,
    embeddings: bool = False,
) -> list[ServedModel]:
    """Load every model with its adapter and make its engine, not yet started.

    `base` holds what a model's own options do not say; adapters in `adapter_folders` find their
    models by themselves.
    With `embeddings` models make embeddings of their last token that were not made for it.
    `report` is told which step begins; transformers shows its own bar while weights load.
    Raises what loading raises, and GistAdapterError for an adapter that fits none of the models or
    the same model as another one.
    """
    configs = {folder: GistConfig.load(folder) for folder in adapter_folders}
    loaded = [_load(options, engine_config(base, options), report) for options in models]
    chosen = _match(loaded, configs)
    return [_serve(entry, chosen.get(entry.name), embeddings) for entry in loaded]


def engine_config(base: EngineConfig, options: ModelOptions) -> EngineConfig:
    """The engine's settings of one model: its own options, and those of `base` besides."""
    return replace(
        base,
        dtype=base.dtype if options.dtype is None else torch_dtype(options.dtype),
        max_model_len=options.max_model_len or base.max_model_len,
        max_num_seqs=options.max_num_seqs or base.max_num_seqs,
    )


def torch_dtype(dtype: Dtype) -> torch.dtype | None:
    """None for the checkpoint's own."""
    return None if dtype is Dtype.auto else getattr(torch, dtype.value)


def _load(options: ModelOptions, config: EngineConfig, report: Report) -> _Loaded:
    source = options.source
    report(f"loading {source.name} from {source.location}")
    model, tokenizer = load_model(source.location, config.dtype, config.device)
    report(f"taking the fingerprint of {source.name}")
    fingerprint = model_fingerprint(model, tokenizer, source=source.location)
    return _Loaded(options, config, model, tokenizer, fingerprint)


def _match(loaded: Sequence[_Loaded], adapters: dict[Path, GistConfig]) -> dict[str, Path]:
    """The adapter folder of each model that has one, by the model's name.

    Adapters that were named go before the one in a model's own folder.
    """
    chosen: dict[str, Path] = {}
    for folder, adapter in adapters.items():
        fitting = [entry.name for entry in loaded if _fits(adapter, entry)]
        if not fitting:
            raise GistAdapterError(_misfit(folder, adapter, loaded))
        if taken := chosen.keys() & fitting:
            raise GistAdapterError(f"two gist adapters were given for {', '.join(taken)}")
        chosen |= dict.fromkeys(fitting, folder)
    for entry in loaded:
        named = entry.options.gist_adapter
        if named is not None and entry.name in chosen:
            raise GistAdapterError(f"two gist adapters were given for {entry.name}")
        own = named or entry.options.source.own_adapter
        if own is not None and entry.name not in chosen:
            adapter = GistConfig.load(own)
            if not _fits(adapter, entry):
                raise GistAdapterError(_misfit(own, adapter, [entry]))
            chosen[entry.name] = own
    return chosen


def _fits(adapter: GistConfig, entry: _Loaded) -> bool:
    return not differing_parts(adapter.base_fingerprint, entry.fingerprint)


def _misfit(folder: Path, adapter: GistConfig, loaded: Sequence[_Loaded]) -> str:
    if not adapter.base_fingerprint:
        return f"the gist adapter {folder} does not say which model it was trained for"
    reasons = [
        f"{entry.name} has another "
        + " and ".join(differing_parts(adapter.base_fingerprint, entry.fingerprint))
        for entry in loaded
    ]
    return (
        f"the gist adapter {folder} was trained for another model "
        f"({adapter.base_model or 'unnamed'}): {'; '.join(reasons)}. Serve the model it was made "
        "for, or train an adapter on this one with gistserve train gist; if this model is an "
        f"update of that one, --start-from {folder} begins with the old adapter's values"
    )


def _serve(entry: _Loaded, folder: Path | None, embeddings: bool) -> ServedModel:
    # An adapter of its own for every engine: it is active on one thread at a time.
    adapter = None if folder is None else GistAdapter.load(folder, entry.model.device)
    fingerprint = with_adapter(entry.fingerprint, adapter)
    engine = Engine(entry.model, entry.config, adapter, fingerprint=fingerprint)
    return ServedModel(
        name=entry.name,
        engine=engine,
        tokenizer=entry.tokenizer,
        fingerprint=fingerprint,
        max_model_len=engine.max_model_len,
        adapter=adapter,
        root=entry.options.source.location,
        pooling=pooling_of(entry.options.source.location) or (LAST_TOKEN if embeddings else None),
    )
