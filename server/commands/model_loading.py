"""From model names on the command line to running engines."""

import logging
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
from ..engine.kv_demand import kv_budget
from ..engine.kv_share import KVClaim, share_out
from ..engine.loader import load_model
from ..engine.model_runner import ModelRunner
from ..engine.pooling import LAST_TOKEN, pooling_of
from .model_options import Dtype, ModelOptions

Report = Callable[[str], None]

logger = logging.getLogger(__name__)


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
    Models that were made for embeddings, of a kind that is done here, answer nothing else; with
    `embeddings` all do both.
    `report` is told which step begins; transformers shows its own bar while weights load.
    The memory for keys and values, `base.kv_cache_memory` or what is left when all are loaded, is
    shared out by the rule of `kv_share`. A model whose part holds no sequence of the length that it
    could have is served with shorter ones, unless that length was asked for.
    Raises what loading raises, ValueError where memory is too small, and GistAdapterError for an
    adapter that fits none of the models or the same model as another one.
    """
    names = [options.source.name for options in models]
    if len(set(names)) < len(names):
        raise ValueError(f"served model names must differ, got {', '.join(sorted(names))}")
    configs = {folder: GistConfig.load(folder) for folder in adapter_folders}
    loaded = [_load(options, engine_config(base, options), report) for options in models]
    chosen = _match(loaded, configs)
    # An adapter of its own for every engine: it is active on one thread at a time.
    adapters = {
        entry.name: GistAdapter.load(chosen[entry.name], entry.model.device)
        for entry in loaded
        if entry.name in chosen
    }
    report("sharing out the memory for keys and values")
    runners = _allocated_runners(loaded, base)
    return [
        _serve(entry, adapters.get(entry.name), runner, embeddings)
        for entry, runner in zip(loaded, runners, strict=True)
    ]


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
    batch = min(config.decode_batch, config.max_num_seqs)
    model, tokenizer = load_model(source.location, config.dtype, config.device, batch)
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


def _allocated_runners(loaded: Sequence[_Loaded], base: EngineConfig) -> list[ModelRunner]:
    """A runner for each model, all measured before the first one takes memory for its pool."""
    runners = [ModelRunner(entry.model, entry.config, allocate=False) for entry in loaded]
    total = base.kv_cache_memory
    demands = [runner.demand(measured=total is None) for runner in runners]
    budget = kv_budget(demands, base.gpu_memory_utilization) if total is None else total
    claims = [
        KVClaim(demand, entry.options.kv_share, entry.config.max_model_len is not None)
        for entry, demand in zip(loaded, demands, strict=True)
    ]
    names = [entry.name for entry in loaded]
    grants = share_out(dict(zip(names, claims, strict=True)), budget, capped=total is None)
    for name, runner, demand in zip(names, runners, demands, strict=True):
        grant = grants[name]
        if grant.max_model_len < demand.max_model_len:
            logger.warning(
                "%s is served with at most %d tokens in place of %d: its part of the memory for "
                "keys and values holds no more",
                name,
                grant.max_model_len,
                demand.max_model_len,
            )
        runner.allocate(grant.num_blocks, grant.max_model_len)
    return runners


def _serve(
    entry: _Loaded, adapter: GistAdapter | None, runner: ModelRunner, embeddings: bool
) -> ServedModel:
    fingerprint = with_adapter(entry.fingerprint, adapter)
    pooling = pooling_of(entry.options.source.location)
    engine = Engine(entry.model, entry.config, adapter, fingerprint=fingerprint, runner=runner)
    return ServedModel(
        name=entry.name,
        engine=engine,
        tokenizer=entry.tokenizer,
        fingerprint=fingerprint,
        max_model_len=engine.max_model_len,
        adapter=adapter,
        root=entry.options.source.location,
        pooling=pooling or (LAST_TOKEN if embeddings else None),
        generates=embeddings or pooling != LAST_TOKEN,
    )
