"""What the engine's tests share: reference tokens from transformers, and a synchronous engine."""

import functools
import random

import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.cache import GistCache
from gistserve.compress.config import GistConfig
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine_core import EngineCore
from gistserve.server.engine.request import Request, RequestOutput, SamplingParams
from gistserve.server.engine.sequence import Sequence
from transformers import DynamicCache, PreTrainedModel

from ...families import VOCAB_SIZE, tiny_model

NUM_TOKENS = 10
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(f"{length} {seed}")
    return [rng.randrange(3, VOCAB_SIZE) for _ in range(length)]


PROMPTS = {f"p{n}": prompt(n) for n in (1, 3, 17, 34, 52)}


@functools.cache
def reference(family: str) -> dict[str, list[int]]:
    """Greedy tokens of transformers' own generate for ``PROMPTS``."""
    model = tiny_model(family)
    return {name: generate(model, tokens) for name, tokens in PROMPTS.items()}


def generate(model: PreTrainedModel, tokens: list[int], count: int = NUM_TOKENS) -> list[int]:
    ids = torch.tensor([tokens])
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(ids, max_new_tokens=count, **settings)
    return out[0, len(tokens) :].tolist()


@torch.no_grad()
def generate_behind(
    model: PreTrainedModel, cache: GistCache, tokens: list[int], count: int = NUM_TOKENS
) -> list[int]:
    """Greedy tokens of direct forwards on a DynamicCache, with explicit positions."""
    past = DynamicCache()
    for layer, (key, value) in enumerate(zip(cache.keys, cache.values, strict=True)):
        past.update(key.transpose(0, 1)[None].clone(), value.transpose(0, 1)[None].clone(), layer)
    position, new, drawn = cache.next_position, list(tokens), []
    for _ in range(count):
        positions = torch.arange(position, position + len(new))[None]
        out = model(torch.tensor([new]), position_ids=positions, past_key_values=past)
        position += len(new)
        new = [int(out.logits[0, -1].argmax())]
        drawn += new
    return drawn


def make_adapter(model: PreTrainedModel, gists: int = 3, sink: int = 2) -> GistAdapter:
    """A random adapter whose LoRA has an effect."""
    config = GistConfig(num_gist_tokens=gists, sink_tokens=sink, lora_rank=4)
    adapter = GistAdapter.create(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for lora in adapter.loras:
            lora.b.copy_(0.1 * torch.randn(lora.b.shape, generator=generator))
    return adapter


@torch.no_grad()
def gist_by_hand(model: PreTrainedModel, adapter: GistAdapter, tokens: list[int]) -> GistCache:
    """Pass 1 as direct forwards: the sink as the base model has it, all else with the adapter."""
    sink, gists = adapter.config.sink_tokens, adapter.config.num_gist_tokens
    past = DynamicCache()
    model(torch.tensor([tokens[:sink]]), past_key_values=past)
    embeds = model.get_input_embeddings()(torch.tensor([tokens[sink:]]))
    embeds = torch.cat([embeds, adapter.gist_embeddings[None]], 1)
    positions = torch.arange(sink, len(tokens) + gists)[None]
    with adapter.applied(model):
        model(inputs_embeds=embeds, position_ids=positions, past_key_values=past)
    kept = [*range(sink), *range(len(tokens), len(tokens) + gists)]
    return GistCache.build(
        method="gist",
        keys=[layer.keys[0, :, kept].transpose(0, 1) for layer in past.layers],
        values=[layer.values[0, :, kept].transpose(0, 1) for layer in past.layers],
        prompt_token_ids=tokens,
        model_fingerprint="",
        sink_tokens=sink,
        gist_tokens=gists,
    )


@torch.no_grad()
def as_engine_keeps(model: PreTrainedModel, cache: GistCache) -> GistCache:
    """The keys and values behind a `DynamicCache`'s states: latents expanded by the model itself.

    transformers caches latents for deepseek_v3; the engine keeps what attention gets.
    """
    attentions = [m for m in model.modules() if hasattr(m, "expand_kv")]
    if not attentions:
        return cache
    pairs = [
        attention.expand_kv(key.transpose(0, 1)[None], value.transpose(0, 1)[None])
        for attention, key, value in zip(attentions, cache.keys, cache.values, strict=True)
    ]
    manifest = cache.manifest
    return GistCache.build(
        method=manifest.method,
        keys=[key[0].transpose(0, 1) for key, _ in pairs],
        values=[value[0].transpose(0, 1) for _, value in pairs],
        prompt_token_ids=prompt(manifest.prompt_tokens, seed=8),
        model_fingerprint="",
        sink_tokens=manifest.sink_tokens,
        gist_tokens=manifest.gist_tokens,
    )


def random_cache(model: PreTrainedModel, slots: int, prompt_tokens: int) -> GistCache:
    """A gist cache of random states; what matters is that all read the same."""
    generator = torch.Generator().manual_seed(slots)
    prefix = DynamicCache()
    with torch.no_grad():
        model(torch.tensor([prompt(slots, seed=9)]), past_key_values=prefix)
    keys = [layer.keys[0].transpose(0, 1) for layer in prefix.layers]
    values = [layer.values[0].transpose(0, 1) for layer in prefix.layers]
    return GistCache.build(
        method="gist",
        keys=[k + 0.1 * torch.randn(k.shape, generator=generator) for k in keys],
        values=[v + 0.1 * torch.randn(v.shape, generator=generator) for v in values],
        prompt_token_ids=prompt(prompt_tokens, seed=8),
        model_fingerprint="",
        sink_tokens=1,
        gist_tokens=slots - 1,
    )


class Driver:
    """An ``EngineCore`` stepped by the test itself; collects what each request received."""

    def __init__(self, model: PreTrainedModel, adapter: GistAdapter | None = None, **config):
        settings = {"num_blocks": 64, "block_size": 4} | config
        self.core = EngineCore(model, EngineConfig(**settings), adapter, "")
        self.outputs: dict[str, list[RequestOutput]] = {}

    def add(self, request: Request) -> Sequence:
        limit = request.sampling.max_tokens
        sequence = Sequence(request, 10**6 if limit is None else limit)
        self.core.add(sequence)
        self.outputs[request.request_id] = []
        return sequence

    def step(self) -> list[RequestOutput]:
        outputs = self.core.step()
        for output in outputs:
            self.outputs[output.request_id].append(output)
        return outputs

    def run(self) -> None:
        while self.core.has_work or self.core.scheduler.ended:
            self.step()

    def tokens(self, request_id: str) -> list[int]:
        return [t for output in self.outputs[request_id] for t in output.new_token_ids]

    def compress(self, token_ids: list[int], slots: list[int], chunk_size: int) -> GistCache:
        """A prompt's gist, computed in chunks in slots of the block pool."""
        steps = self.core.compressions._compressor.compress_steps(
            token_ids, self.core.runner.kv_session(slots), chunk_size
        )
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                return finished.value

    def close(self) -> None:
        self.core.runner.close()
