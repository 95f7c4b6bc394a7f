"""Measures the memory of one training step."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .memory import LiveBytes, training_tensors

STEP = 2
"""The third step: by then gradients and the optimizer's state exist."""


class StepMemory(TrainerCallback):
    """After the run, `facts`: peak bytes of the third step, and how they were counted."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self._live: LiveBytes | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step != STEP:
            return
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)
            return
        self._live = LiveBytes(training_tensors(kwargs["model"], kwargs["optimizer"]))
        self._live.__enter__()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step != STEP + 1:
            return
        if args.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(args.device)
            self.facts = {"peak_bytes": peak, "counted": "torch.cuda.max_memory_allocated"}
        elif self._live is not None:
            self._live.__exit__(None, None, None)
            self.facts = {
                "peak_bytes": self._live.peak,
                "held_bytes": self._live.held,
                "counted": "live tensor bytes at every operator of one training step",
            }
            self._live = None
