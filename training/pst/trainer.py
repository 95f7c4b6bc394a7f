"""`transformers.Trainer` with masks, selection on validation, and small checkpoints."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from ..config import ConfigError
from ..selecting_trainer import SelectingTrainer
from .config import PSTConfig
from .loss import task_loss
from .masks import MaskSchedule
from .pruner import Pruner
from .task import TaskData

STATE_NAME = "pst_state.safetensors"
BEST = "best"


class PSTTrainer(SelectingTrainer):
    """Trains what requires gradients in the pruner's model, on the examples of a task.

    Checkpoints hold that, and the masks, beside the Trainer's own optimizer, schedule, random and
    position state, so a resumed run equals an uninterrupted one. The best state on validation at
    the final sparsity lies in `best/` beside them.
    """

    def __init__(
        self,
        pruner: Pruner,
        data: TaskData,
        config: PSTConfig,
        args: TrainingArguments,
        fresh: list[str],
        callbacks: list[TrainerCallback],
    ) -> None:
        self._masks = MaskSchedule(pruner, config)
        super().__init__(
            model=pruner.model,
            args=args,
            data_collator=data.collate,
            train_dataset=data.train,
            eval_dataset=data.validation,
            compute_loss_func=partial(
                task_loss, task=config.task, label_smoothing=config.label_smoothing
            ),
            callbacks=[self._masks, *callbacks],
        )
        self._pruner = pruner
        self._data = data
        self._config = config
        self._fresh = fresh

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; importance and what starts random may have learning rates of their own."""
        if getattr(self, "optimizer", None) is None:
            groups = parameter_groups(self._pruner, self._config, self._fresh)
            self.optimizer = torch.optim.AdamW(groups, lr=self._config.learning_rate, fused=True)
        return super().create_optimizer(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the sparsity to training log lines."""
        if "loss" in logs and self._pruner.layers:
            logs["sparsity"] = round(self._masks.sparsity, 6)
        super().log(logs, start_time)

    def measure(self) -> dict[str, float]:
        """Loss and accuracy on validation, and measures of written texts if they select."""
        generate = self._config.select_by == "metric"
        return self._data.measure_validation(self._pruner.model, generate=generate)

    def keep(self, measures: dict[str, float]) -> None:
        """Keep the state if it is the best at the final sparsity."""
        if not self._masks.is_final(self.state.global_step, self.state.max_steps):
            return
        if not self.args.should_save:
            return
        score = selection_score(measures, self._config.select_by)
        if self._best_facts.is_file():
            best = json.loads(self._best_facts.read_text(encoding="utf-8"))
            if best["score"] >= score:
                return
        save_state(self._pruner.model, self._best_folder)
        facts = {"score": score, "step": self.state.global_step, "validation": measures}
        half = self._best_facts.with_suffix(".partial")
        half.write_text(json.dumps(facts), encoding="utf-8")
        half.replace(self._best_facts)

    def restore(self) -> dict[str, Any]:
        """Put the best state into the model."""
        load_state(self._pruner.model, self._best_folder)
        facts: dict[str, Any] = json.loads(self._best_facts.read_text(encoding="utf-8"))
        return facts

    @property
    def _best_folder(self) -> Path:
        return Path(str(self.args.output_dir)) / BEST

    @property
    def _best_facts(self) -> Path:
        return self._best_folder / "best.json"

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            save_state(self._pruner.model, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_state(self._pruner.model, Path(resume_from_checkpoint))


def selection_score(measures: dict[str, float], select_by: str) -> float:
    """What the best state has most of: BLEU or accuracy, or the negative loss."""
    if select_by == "loss":
        return -measures["loss"]
    return measures["bleu"] if "bleu" in measures else measures["accuracy"]


def parameter_groups(pruner: Pruner, config: PSTConfig, fresh: list[str]) -> list[dict[str, Any]]:
    """The trained parameters by learning rate and weight decay; `fresh` are names of random ones.

    Importance never decays: it only ranks, and its zero is no more likely than another value.
    """
    importance = {
        id(parameter)
        for layer in pruner.layers.values()
        for name, parameter in layer.named_parameters()
        if name in ("importance", "a", "b", "r", "c")
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in pruner.model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = config.learning_rate
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        if id(parameter) in importance:
            rate, decay = config.score_learning_rate or rate, 0.0
        elif name in fresh:
            rate = config.head_learning_rate or rate
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def save_state(model: torch.nn.Module, folder: Path) -> None:
    """Write what is trained, and the masks."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous() for name, tensor in _state(model).items()}
    partial_file = folder / f"{STATE_NAME}.partial"
    save_file(state, partial_file)
    partial_file.replace(folder / STATE_NAME)


def load_state(model: torch.nn.Module, folder: Path) -> None:
    """Take over what `save_state` wrote. ConfigError where that is of another model or method."""
    ours, saved = _state(model), load_file(folder / STATE_NAME)
    if ours.keys() != saved.keys():
        name = sorted(ours.keys() ^ saved.keys())[0]
        raise ConfigError(f"{folder} was written by a run of other settings: {name} differs")
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(saved[name])
    model.train(model.training)


def _state(model: torch.nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    masks = {n: b for n, b in model.named_buffers() if n.endswith("mask_bits")}
    return state | masks
