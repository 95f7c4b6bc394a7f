"""When masks move: after every optimizer step, so that what is evaluated and saved fits."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .config import PSTConfig
from .pruner import Pruner
from .schedule import cubic_sparsity


class MaskSchedule(TrainerCallback):
    """Sets sparsity and masks once an optimizer step; resumed runs bring their masks along."""

    def __init__(self, pruner: Pruner, config: PSTConfig) -> None:
        self._pruner = pruner
        self._config = config
        self.sparsity = config.initial_sparsity

    def at(self, step: int, total_steps: int) -> float:
        """Sparsity asked for after `step` of `total_steps`."""
        return cubic_sparsity(
            step,
            total_steps,
            self._config.sparsity,
            initial=self._config.initial_sparsity,
            warmup=self._config.sparsity_warmup,
            cooldown=self._config.sparsity_cooldown,
        )

    def is_final(self, step: int, total_steps: int) -> bool:
        """Whether a model of that step is as sparse as it shall be."""
        return not self._pruner.layers or self.at(step, total_steps) == self._config.sparsity

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sparsity = self.at(state.global_step, state.max_steps)
        if state.global_step == 0:
            self._pruner.update_masks(self.sparsity)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sparsity = self.at(state.global_step, state.max_steps)
        self._pruner.update_masks(self.sparsity)
