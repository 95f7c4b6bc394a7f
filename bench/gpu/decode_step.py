"""Whole decode steps of random models through the engine, against the bytes they must read."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import partial

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...server.engine.config import EngineConfig
from ...server.engine.model_runner import ModelRunner
from .bench import Bench, Prepared
from .decode_inputs import blocks_needed, decode_step
from .device import BenchDevice
from .model_shapes import LLAMA_1B, LLAMA_8B, TINY, ModelShape

SECTION = "decode_step"

ARMS = ("eager", "graphs")
_BATCHES = (1, 8, 64)
_LENGTH = 1024
_MAX_MODEL_LEN = 8192


def run(bench: Bench) -> None:
    """Time steps of both models with and without CUDA graphs, the device waited for after each."""
    tiny = bench.device.tiny
    length = 24 if tiny else _LENGTH
    runners = RunnerShelf(bench.device, max(_batches(bench.device)), length)
    for shape in (TINY,) if tiny else (LLAMA_1B, LLAMA_8B):
        for arm in ARMS:
            for batch in _batches(bench.device):
                bench.measure(
                    arm,
                    {"model": shape.name, "batch": batch, "length": length},
                    partial(_prepare, runners, shape, arm, batch, length),
                    method="host",
                    floor_bytes=step_bytes(shape, batch, length, bench.device.dtype.itemsize),
                )


def step_bytes(shape: ModelShape, batch: int, length: int, itemsize: int) -> float:
    """Weights read once, but for an untied embedding table; keys and values of all sequences."""
    attention = 2 * shape.hidden_size * (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
    head = shape.hidden_size * shape.vocab_size + shape.hidden_size
    slot = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    return float(itemsize) * (shape.num_layers * layer + head + batch * length * slot)


def _batches(device: BenchDevice) -> tuple[int, ...]:
    return (1, 2) if device.tiny else _BATCHES


def _prepare(
    runners: RunnerShelf, shape: ModelShape, arm: str, batch: int, length: int
) -> Prepared:
    runner = runners.get(shape, arm)
    output = decode_step(batch, length, runner.block_size, shape.vocab_size)
    return Prepared([partial(runner.execute, output)])


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
    _model: tuple[ModelShape, PreTrainedModel] | None = None
    _runner: tuple[str, ModelRunner] | None = None

    def get(self, shape: ModelShape, arm: str) -> ModelRunner:
        """The runner of a model by the arm's settings."""
        if self._model is None or self._model[0] != shape:
            self._drop_runner()
            self._model = None
            gc.collect()
            self._model = shape, random_model(shape, self.device)
        if self._runner is None or self._runner[0] != arm:
            self._drop_runner()
            self._runner = arm, self._make(self._model[1], arm)
        return self._runner[1]

    def _make(self, model: PreTrainedModel, arm: str) -> ModelRunner:
        config = EngineConfig(
            max_model_len=model.config.max_position_embeddings,
            max_num_seqs=self.max_batch,
            num_blocks=blocks_needed(self.max_batch, self.length, EngineConfig().block_size),
            enforce_eager=arm == "eager",
        )
        runner = ModelRunner(model, config)
        for layer in runner.pool.layers:  # arithmetic on zeros takes less power, and time
            layer.key.normal_()
            layer.value.normal_()
        return runner

    def _drop_runner(self) -> None:
        if self._runner is not None:
            self._runner[1].close()
            self._runner = None
            gc.collect()


def random_model(shape: ModelShape, device: BenchDevice) -> PreTrainedModel:
    """A model of random weights, made where it shall run."""
    config = shape.config(64 if device.tiny else _MAX_MODEL_LEN)
    with torch.device(device.device):
        model = AutoModelForCausalLM.from_config(config, dtype=device.dtype)
    return model.eval()
