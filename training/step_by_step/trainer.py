"""`transformers.Trainer` on two tasks at once, with selection on validation."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from ..best import BestState
from ..samples import Sample, print_samples
from ..selecting_trainer import SelectingTrainer
from .config import StepByStepConfig
from .forward import task_logits
from .loss import task_losses, task_tokens
from .task_data import TaskData
from .tasks import LABEL, RATIONALE, TASKS, question

BEST = "best.safetensors"


class StepByStepTrainer(SelectingTrainer):
    """Trains a model on the examples of a `TaskData`.

    The loss of an optimizer step is the formula on its whole batch, however that is split into
    accumulated parts and processes: each task's sum is divided by the task's tokens in all of them.
    Checkpoints are the Trainer's own, so a resumed run equals an uninterrupted one. The best state
    on validation lies in `best.safetensors` beside them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: TaskData,
        config: StepByStepConfig,
        args: TrainingArguments,
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=data.collate,
            train_dataset=data.train,
            eval_dataset=data.validation,
            compute_loss_func=task_losses,  # tells the Trainer not to divide by accumulated parts
            callbacks=callbacks,
        )
        self._model = model
        self._data = data
        self._config = config
        self._parts = torch.zeros(len(TASKS), device=args.device)
        self._parts_step = 0
        self._best = BestState(Path(str(args.output_dir)) / BEST)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """The parts of an optimizer step, and each task's tokens in them over all processes."""
        parts, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        tokens = torch.zeros(len(TASKS), dtype=torch.int64, device=device)
        for part in parts:
            tokens += task_tokens(part["labels"], part["tasks"]).to(device)
        return parts, self.accelerator.reduce(tokens, reduction="sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This part's share of the step's loss; the tasks' losses are kept for the next log line.

        num_items_in_batch: int64 [2], from `get_batch_samples`. Gradients are averaged over the
        processes, so their number multiplies the share.
        """
        labels, tasks = inputs.pop("labels"), inputs.pop("tasks")
        logits = task_logits(model, inputs)
        losses = task_losses(logits, labels, tasks, num_items_in_batch)
        losses = losses * self.accelerator.num_processes
        self._parts += losses.detach()
        loss = losses[LABEL] + self._config.rationale_weight * losses[RATIONALE]
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean loss of each task since the last training log line."""
        steps = self.state.global_step - self._parts_step
        if "loss" in logs and steps > 0:
            parts = self.accelerator.reduce(self._parts, reduction="mean") / steps
            shown = TASKS if self._config.method == "step_by_step" else TASKS[:1]
            logs |= {f"{name}_loss": float(part) for name, part in zip(shown, parts, strict=False)}
            self._parts.zero_()
            self._parts_step = self.state.global_step
        super().log(logs, start_time)

    def measure(self) -> dict[str, float]:
        """Loss and scores on validation, and a look at what the model writes."""
        validation = self._data.records.validation
        measures = {"loss": self._data.validation_loss(self._model)}
        if self._config.select_by == "accuracy":
            scores, written = self._data.measure(self._model, validation)
            self._print(written)
            return measures | scores
        self._print(
            self._data.write(self._model, validation[: self._config.printed_samples], LABEL)
        )
        return measures

    def keep(self, measures: dict[str, float]) -> None:
        """Keep the model if it has the lowest loss, or the highest accuracy, by `select_by`."""
        if self.args.should_save:
            by_loss = self._config.select_by == "loss"
            score = -measures["loss"] if by_loss else measures["accuracy"]
            self._best.offer(self._model, score, self.state.global_step, measures)

    def restore(self) -> dict[str, Any]:
        """Put the best weights into the model."""
        self._best.load(self._model)
        return self._best.facts()

    def _print(self, written: list[str]) -> None:
        """Show some answers, and where there are two tasks, rationales for the same inputs."""
        shown = self._data.records.validation[: self._config.printed_samples]
        if not shown:
            return
        method = self._config.method
        samples = [
            Sample(question(item.source, method), text, item.reference)
            for item, text in zip(shown, written, strict=False)
        ]
        if method == "step_by_step":
            rationales = self._data.write(self._model, shown, RATIONALE)
            samples += [
                Sample(question(item.source, method, RATIONALE), text, item.rationale)
                for item, text in zip(shown, rationales, strict=True)
            ]
        print_samples(f"step {self.state.global_step}", samples)
