"""The whole measurement of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...server.engine.config import EngineConfig
from ...server.engine.engine import Engine
from ...server.engine.loader import load_model
from ..gpu.model_shapes import LLAMA_1B, LLAMA_8B, SMOLLM_135M, TINY, ModelShape
from .case import EngineCase, plan
from .costs import ModelCosts
from .driver import EngineDriver
from .machine import Machine
from .rounds import EngineRounds
from .summary import summarise

SHAPES = {shape.name.lower(): shape for shape in (TINY, SMOLLM_135M, LLAMA_1B, LLAMA_8B)}


@dataclass(frozen=True)
class EngineBenchSettings:
    """What is measured.

    Attributes:
        model: folder or hub name; None takes random weights of ``shape``.
        shape: a name in ``SHAPES``.
        dtype: of weights and cache; None takes the checkpoint's, of random weights float32 on the
            CPU and bfloat16 on CUDA.
        device: "cpu" or "cuda".
        contexts: prompt lengths, which are multiples of the block size.
        most_tokens: cases of more prompt tokens together are left out.
        steps: decode steps of a case in a round.
        config: of the engine; its limits are set so that every case fits.
    """

    model: str | None
    shape: str
    dtype: torch.dtype | None
    device: torch.device
    batches: Sequence[int]
    contexts: Sequence[int]
    most_tokens: int
    rounds: int = 3
    steps: int = 32
    seed: int = 0
    config: EngineConfig = field(default_factory=EngineConfig)


def measure(settings: EngineBenchSettings, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Rounds and their summary, for a result file.

    Raises:
        ValueError: no case is left, or a length is not of whole blocks or beyond the model.
        EngineError: the model cannot be loaded or served.
        RuntimeError: a request failed.
    """
    cases, left_out = plan(settings.batches, settings.contexts, settings.most_tokens)
    _check(settings, cases)
    on_step("loading the model")
    model = _model(settings)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(case.context for case in cases) + settings.steps + 2
    if limit is not None and longest > limit:
        raise ValueError(
            f"a context of {longest} tokens (with the answer) is beyond the model's {limit}; "
            "give a smaller --context"
        )
    counted = ModelCosts.of(model)
    with _engine(model, _config(settings, cases)) as engine:
        costs = replace(counted, kv_bytes_per_token=engine.info.kv_bytes_per_token)
        rounds = EngineRounds(
            EngineDriver(engine),
            costs,
            Machine.of(settings.device, model.dtype),
            vocab_size=engine.vocab_size,
            steps=settings.steps,
            on_step=on_step,
        ).run(cases, settings.rounds, settings.seed)
    return {
        "model": settings.model or f"random weights, {settings.shape}",
        "dtype": engine.info.dtype,
        "device": engine.info.device,
        "threads": torch.get_num_threads(),
        "weight_bytes_a_step": costs.weight_bytes,
        "kv_bytes_per_token": costs.kv_bytes_per_token,
        "max_num_batched_tokens": settings.config.max_num_batched_tokens,
        "seed": settings.seed,
        "left_out": [str(case) for case in left_out],
        "summary": summarise(rounds),
        "rounds": rounds,
    }


def _check(settings: EngineBenchSettings, cases: Sequence[EngineCase]) -> None:
    size = settings.config.block_size
    for context in settings.contexts:
        if context % size:
            raise ValueError(f"a context of {context} tokens is not a multiple of {size}")
    if not cases:
        raise ValueError(
            f"every case has more than {settings.most_tokens} prompt tokens together; raise "
            "--most-tokens or give smaller ones"
        )


def _model(settings: EngineBenchSettings) -> PreTrainedModel:
    if settings.model is not None:
        model, _ = load_model(settings.model, settings.dtype, settings.device)
        return model
    return random_model(SHAPES[settings.shape], settings)


def random_model(shape: ModelShape, settings: EngineBenchSettings) -> PreTrainedModel:
    """Of a shape, on the device, long enough for all cases."""
    usual = torch.bfloat16 if settings.device.type == "cuda" else torch.float32
    config = shape.config(max(settings.contexts) + settings.steps + 2)
    torch.manual_seed(settings.seed)
    with settings.device:
        return AutoModelForCausalLM.from_config(config, dtype=settings.dtype or usual).eval()


def _config(settings: EngineBenchSettings, cases: Sequence[EngineCase]) -> EngineConfig:
    """Holds the largest case, its answers, and a block for the request that starts it."""
    size = settings.config.block_size
    blocks = max(case.batch * -(-(case.context + settings.steps + 2) // size) for case in cases)
    batch = max(case.batch for case in cases)
    return replace(settings.config, num_blocks=blocks + batch + 1, max_num_seqs=batch)


@contextmanager
def _engine(model: PreTrainedModel, config: EngineConfig) -> Iterator[Engine]:
    engine = Engine(model, config)
    engine.start()
    try:
        yield engine
    finally:
        engine.shutdown()
