"""From a prompt's token ids to the key/value cache that stands for it.

Layout in slots and positions, for a prompt of m tokens, s sink tokens and k gist tokens:

1. the first s tokens run with the adapter off (positions 0 … s-1): exactly the base model's own;
2. the other tokens (s … m-1) and the k gist embeddings (m … m+k-1) run with the adapter on;
3. the cache keeps the s sink slots and the k gist slots; what follows starts at position m+k.

The trainer and the engine run this same code (arXiv 2304.08467, with a frozen base and a sink).
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .adapter import GistAdapter
from .cache import GistCache, Method
from .config import GistAdapterError


class KVSession(Protocol):
    """A key/value cache that the compressor fills: the engine's pages, or a `DynamicCache`."""

    def append(self, inputs_embeds: Tensor, position_ids: Tensor) -> None:
        """Run the model over new tokens [1, T, H] at positions [1, T] (int64), keeping their KV."""

    def read(self, slots: list[int]) -> list[tuple[Tensor, Tensor]]:
        """For each layer the key [slots, Hkv, D] and value [slots, Hkv, Dv] of these slots."""


class DynamicCacheSession:
    """A `KVSession` on a plain `DynamicCache`; gradients flow through it when enabled."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache()

    def append(self, inputs_embeds: Tensor, position_ids: Tensor) -> None:
        run_decoder(self._model, inputs_embeds, position_ids, self._cache)

    def read(self, slots: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [
            (layer.keys[0, :, slots].transpose(0, 1), layer.values[0, :, slots].transpose(0, 1))
            for layer in self._cache.layers
        ]


@dataclass
class GistStates:
    """Caches of a batch of prompts: for each layer keys [B, Hkv, slots, D] and values [..., Dv].

    `next_positions` [B] (int64) is where each continuation starts.
    """

    keys: list[Tensor]
    values: list[Tensor]
    next_positions: Tensor

    @property
    def slots(self) -> int:
        return self.keys[0].shape[2]

    def expand(self, rows: Tensor) -> DynamicCache:
        """A new cache whose row r is that of prompt `rows[r]` (int64 [R]); gradients flow."""
        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(key.index_select(0, rows), value.index_select(0, rows), layer)
        return cache


class GistCompressor:
    """Compresses prompts for one model: by its adapter ("gist"), or not at all ("prefix").

    `fingerprint` (see fingerprint.py) is written into the caches. Raises GistAdapterError when the
    adapter does not fit the model, or the model's caches cannot be cut to their gist slots.
    """

    def __init__(
        self, model: PreTrainedModel, adapter: GistAdapter | None, *, fingerprint: str = ""
    ) -> None:
        if adapter is not None:
            check_gist_support(model)
            adapter.check_model(model)
        self.model = model
        self.adapter = adapter
        self.fingerprint = fingerprint

    def compress_steps(
        self,
        token_ids: list[int],
        session: KVSession,
        chunk_size: int | None = None,
        method: Method = "gist",
    ) -> Generator[None, None, GistCache]:
        """Fill `session` in chunks of at most `chunk_size` tokens and return the cache.

        Yields between chunks; other work may run on the model there, since the adapter is applied
        only while a chunk runs. The session must be empty. ValueError for a prompt that is empty
        or shorter than the sink; GistAdapterError for method "gist" without an adapter.
        """
        embeds, sink = self._embed_prompt(token_ids, method)
        total = embeds.shape[1]
        positions = torch.arange(total, device=embeds.device)[None]
        first = True
        for start, stop, gated in _chunks(sink, total, chunk_size):
            if not first:
                yield
            first = False
            with self._adapter_on() if gated and method == "gist" else nullcontext():
                session.append(embeds[:, start:stop], positions[:, start:stop])
        kept = list(range(total))
        if method == "gist":
            kept = kept[:sink] + kept[len(token_ids) :]
        states = session.read(kept)
        return GistCache.build(
            method=method,
            keys=[key for key, _ in states],
            values=[value for _, value in states],
            prompt_token_ids=token_ids,
            model_fingerprint=self.fingerprint,
            sink_tokens=sink,
            gist_tokens=total - len(token_ids),
        )

    def compress(self, token_ids: list[int], method: Method = "gist") -> GistCache:
        """The cache of one prompt, through a session of its own; gradients flow when enabled."""
        steps = self.compress_steps(token_ids, DynamicCacheSession(self.model), method=method)
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                return finished.value

    def compress_batch(self, prompt_ids: Tensor, lengths: Tensor) -> GistStates:
        """Compress many prompts at once; gradients flow to the adapter.

        prompt_ids [B, M] int64, padded on the right with any valid token; lengths [B] int64. Each
        prompt's gist tokens stand directly behind it, so padding comes after them and, attention
        being causal, is never seen. Equals `compress` of each prompt. ValueError for lengths
        under `sink_tokens` or zero.
        """
        adapter = self._require_adapter()
        sink, gists = adapter.config.sink_tokens, adapter.config.num_gist_tokens
        if int(lengths.min()) < max(sink, 1):
            raise ValueError(f"a prompt must have at least {max(sink, 1)} token(s)")
        check_gist_support(self.model)
        embed = self.model.get_input_embeddings()
        cache = DynamicCache()
        total = prompt_ids.shape[1] + gists
        positions = torch.arange(total, device=prompt_ids.device).expand(len(prompt_ids), -1)
        if sink:
            run_decoder(self.model, embed(prompt_ids[:, :sink]), positions[:, :sink], cache)
        gist_index = lengths[:, None] + torch.arange(gists, device=lengths.device)
        rest = torch.nn.functional.pad(embed(prompt_ids[:, sink:]), (0, 0, 0, gists))
        where = (gist_index - sink)[..., None].expand(-1, -1, rest.shape[2])
        rest = rest.scatter(1, where, adapter.gist_embeddings.to(rest.dtype).expand_as(where))
        with self._adapter_on():
            run_decoder(self.model, rest, positions[:, sink:], cache)
        sink_index = torch.arange(sink, device=lengths.device).expand(len(lengths), -1)
        return _gather_slots(cache, torch.cat([sink_index, gist_index], 1), lengths + gists)

    def _embed_prompt(self, token_ids: list[int], method: Method) -> tuple[Tensor, int]:
        if not token_ids:
            raise ValueError("the prompt is empty: there is nothing to compress")
        embed = self.model.get_input_embeddings()
        embeds = embed(torch.tensor([token_ids], device=self.model.device))
        if method == "prefix":
            return embeds, 0
        if method != "gist":
            raise ValueError(f"method must be 'gist' or 'prefix', got {method!r}")
        adapter = self._require_adapter()
        sink = adapter.config.sink_tokens
        if len(token_ids) < sink:
            raise ValueError(f"the prompt has {len(token_ids)} token(s), the sink alone {sink}")
        gists = adapter.gist_embeddings.to(embeds.dtype)[None]
        return torch.cat([embeds, gists], 1), sink

    def _adapter_on(self) -> AbstractContextManager[None]:
        return self._require_adapter().applied(self.model)

    def _require_adapter(self) -> GistAdapter:
        if self.adapter is None:
            raise GistAdapterError(
                "this model has no gist adapter: train one with `gistserve train gist`, or keep "
                "the full prompt with method 'prefix'"
            )
        return self.adapter


def run_decoder(
    model: PreTrainedModel, inputs_embeds: Tensor, position_ids: Tensor, cache: DynamicCache
) -> None:
    """Run the model without its head over new tokens [B, T, H], appending their KV to `cache`."""
    expected = cache.get_seq_length() + inputs_embeds.shape[1]
    model.base_model(
        inputs_embeds=inputs_embeds,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
    )
    cached = [layer.keys is not None and layer.keys.shape[2] == expected for layer in cache.layers]
    if len(cached) != model.config.get_text_config().num_hidden_layers or not all(cached):
        raise GistAdapterError(
            f"{type(model).__name__} did not cache the keys and values of every layer: its prompts "
            "cannot be compressed"
        )


def check_gist_support(model: PreTrainedModel) -> None:
    """Raise GistAdapterError when gist tokens cannot work on this model, saying why.

    A sliding window counts slots where it should count positions once a gist stands for many
    tokens; other layer types keep no key/value cache; gradient checkpointing drops the cache.
    """
    config = model.config.get_text_config()
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise GistAdapterError(
            "gradient checkpointing drops the key/value cache that gist training reads: "
            "switch it off (model.gradient_checkpointing_disable())"
        )
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    limit = getattr(config, "max_position_embeddings", None)
    windowed = "sliding_attention" in kinds if kinds else window is not None
    ever_reached = window is None or limit is None or window < limit
    if windowed and ever_reached:
        raise GistAdapterError(
            f"{type(model).__name__} has sliding-window layers (window {window}), in which gist "
            "tokens would be counted as slots instead of positions: use compression 'prefix'"
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise GistAdapterError(
            f"{type(model).__name__} shares keys and values between layers, which a gist cache "
            "cannot hold"
        )
    if kinds - {"full_attention", "sliding_attention"}:
        raise GistAdapterError(
            f"{type(model).__name__} has layers of type {', '.join(sorted(kinds))}, which keep no "
            "plain key/value cache: gist tokens need full attention in every layer"
        )


def _chunks(
    sink: int, total: int, chunk_size: int | None
) -> Generator[tuple[int, int, bool], None, None]:
    size = chunk_size or total
    for begin, end, gated in ((0, sink, False), (sink, total, True)):
        for start in range(begin, end, size):
            yield start, min(start + size, end), gated


def _gather_slots(cache: DynamicCache, slots: Tensor, next_positions: Tensor) -> GistStates:
    def gather(states: Tensor) -> Tensor:
        index = slots[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index)

    keys = [gather(layer.keys) for layer in cache.layers]
    values = [gather(layer.values) for layer in cache.layers]
    return GistStates(keys, values, next_positions)
