"""Whole decode steps of random models through the engine, against the bytes they must read."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from ...server.engine.config import EngineConfig
from ...server.engine.model_runner import ModelRunner
from .bench import Bench, Prepared
from .decode_inputs import blocks_needed, decode_step
from .device import BenchDevice
from .measurement import Case
from .model_shapes import LLAMA_1B, LLAMA_8B, TINY, ModelShape
from .random_models import RandomModel
from .variants import QUICK_COMPILER

SECTION = "decode_step"

ARMS: dict[str, dict[str, Any]] = {
    "graphs": {},
    "eager": {"enforce_eager": True},
    "compiled": {"compile": True},
}
"""Arm to the engine settings that it changes; the compiled layers run in graphs, too."""

_SPARSITY = 0.9
_BATCHES = (1, 8, 64)
_LENGTH = 1024

# By what matters most: compiling takes longer than all else.
_PLAN = (
    (LLAMA_1B, 0.0, ("graphs", "eager")),
    (LLAMA_8B, 0.0, ("graphs", "eager")),
    (LLAMA_8B, _SPARSITY, ("graphs",)),
    (LLAMA_1B, _SPARSITY, ("graphs", "eager")),
    (LLAMA_1B, 0.0, ("compiled",)),
    (LLAMA_8B, 0.0, ("compiled",)),
)
_TINY_PLAN = ((TINY, 0.0, tuple(ARMS)), (TINY, _SPARSITY, ("graphs",)))


def run(bench: Bench) -> None:
    """Time steps with and without CUDA graphs, the device waited for after each."""
    tiny = bench.device.tiny
    batches, length = ((1, 2), 24) if tiny else (_BATCHES, _LENGTH)
    runners = RunnerShelf(bench.device, max(batches), length)
    for shape, sparsity, arms in _TINY_PLAN if tiny else _PLAN:
        for arm, batch in product(arms, batches):
            case: Case = {"model": shape.name, "sparsity": sparsity, "batch": batch}
            call = partial(_prepare, runners, shape, sparsity, arm, batch)
            bench.measure(arm, case | {"length": length}, call, method="host")


def kv_bytes(shape: ModelShape, slots: int, itemsize: int) -> float:
    """Bytes of the keys and values of so many slots in all layers."""
    return 2.0 * slots * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize


def _prepare(
    runners: RunnerShelf, shape: ModelShape, sparsity: float, arm: str, batch: int
) -> Prepared:
    runner = runners.get(shape, sparsity, arm)
    output = decode_step(batch, runners.length, runner.block_size, shape.vocab_size)
    kept = kv_bytes(shape, batch * runners.length, runners.device.dtype.itemsize)
    return Prepared(
        [partial(runner.execute, output)],
        floor_bytes=runners.weight_bytes + kept,
        facts={"weight_bytes": runners.weight_bytes, "kv_bytes": kept},
    )


@dataclass
class RunnerShelf:
    """Holds one model and one runner at a time, made when they are asked for.

    Attributes:
        device: where.
        max_batch: sequences that a runner must take.
        length: slots of each.
    """

    device: BenchDevice
    max_batch: int
    length: int
    _model: tuple[tuple[ModelShape, float], RandomModel] | None = None
    _runner: tuple[str, ModelRunner] | None = None

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that a step of the current model reads."""
        assert self._model is not None
        return self._model[1].weight_bytes

    def get(self, shape: ModelShape, sparsity: float, arm: str) -> ModelRunner:
        """The runner of a model by the arm's settings."""
        if self._model is None or self._model[0] != (shape, sparsity):
            self._drop_runner()
            self._model = None
            gc.collect()
            self._model = (shape, sparsity), RandomModel.make(shape, sparsity, self.device)
        if self._runner is None or self._runner[0] != arm:
            self._drop_runner()
            self._runner = arm, self._make(self._model[1], arm)
        return self._runner[1]

    def _make(self, model: RandomModel, arm: str) -> ModelRunner:
        config = EngineConfig(
            max_model_len=model.model.config.max_position_embeddings,
            max_num_seqs=self.max_batch,
            num_blocks=blocks_needed(self.max_batch, self.length, EngineConfig().block_size),
            **ARMS[arm],
        )
        with QUICK_COMPILER.applied() if self.device.tiny else nullcontext():
            runner = ModelRunner(model.model, config)
        for layer in runner.pool.layers:  # arithmetic on zeros takes less power, and time
            layer.key.normal_()
            layer.value.normal_()
        return runner

    def _drop_runner(self) -> None:
        if self._runner is not None:
            self._runner[1].close()
            self._runner = None
            gc.collect()
