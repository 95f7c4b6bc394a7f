"""Fine-tuning a student on responses: the baselines, and minillm's warm start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_model, save_model
from transformers import TrainerCallback, TrainingArguments

from ..best import BestState
from ..checkpoints import CHECKPOINTS, newest_checkpoint
from ..selecting_trainer import SelectingTrainer
from ..trainer_arguments import trainer_arguments
from .config import MiniLLMConfig
from .data import Pair
from .evaluation import Measures
from .models import Models
from .supervised import SupervisedObjective, collate

BEST = "best.safetensors"
_STUDENT = "student.safetensors"


@dataclass(frozen=True)
class Phase:
    """Where a fine-tuning lies, what it learns, and what its best state is chosen by.

    validate: measures the student on `validation`. score: of its measures, what the best state has
    most of.
    """

    folder: Path
    train: Sequence[Pair]
    validation: Sequence[Pair]
    validate: Callable[[Sequence[Pair]], Measures]
    score: Callable[[Measures], float]
    kd_share: float = 0.0
    callbacks: Sequence[TrainerCallback] = ()


def fine_tune(config: MiniLLMConfig, models: Models, phase: Phase) -> dict[str, Any]:
    """Train, put the best state on validation into the student, and return what happened.

    Goes on from the newest checkpoint under the phase's folder where there is one. The facts are
    `steps`, `kept_step`, `training_seconds` and the kept state's `validation` measures.
    """
    trainer = FineTuner(config, models, phase)
    outcome = trainer.train(resume_from_checkpoint=newest_checkpoint(phase.folder))
    kept = trainer.load_best()
    return {
        "steps": trainer.state.global_step,
        "kept_step": kept["step"],
        "training_seconds": outcome.metrics["train_runtime"],
        "validation": kept["validation"],
    }


class FineTuner(SelectingTrainer):
    """Trains the student of a SupervisedObjective; checkpoints hold its weights alone."""

    def __init__(self, config: MiniLLMConfig, models: Models, phase: Phase) -> None:
        checkpoints = phase.folder / CHECKPOINTS
        super().__init__(
            model=SupervisedObjective(models, phase.kd_share),
            args=_arguments(config, checkpoints),
            data_collator=partial(collate, pad_id=models.pad_id),
            train_dataset=list(phase.train),
            eval_dataset=list(phase.validation),
            callbacks=list(phase.callbacks),
        )
        self._student = models.student
        self._phase = phase
        self._best = BestState(checkpoints / BEST)
        if models.teacher is not None:
            models.teacher.to(self.args.device)

    def measure(self) -> dict[str, float]:
        """Measures of the student on the phase's validation pairs."""
        return self._phase.validate(self._phase.validation)

    def keep(self, measures: dict[str, float]) -> None:
        """Keep the student if the phase scores it highest."""
        if self.args.should_save:
            score = self._phase.score(measures)
            self._best.offer(self._student, score, self.state.global_step, measures)

    def restore(self) -> dict[str, Any]:
        """Put the best weights into the student."""
        self._best.load(self._student)
        return self._best.facts()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self._student, str(folder / _STUDENT))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self._student, Path(resume_from_checkpoint) / _STUDENT)


@dataclass
class _Settings:
    """A run's settings for its fine-tuning, under the names that all trainers share."""

    learning_rate: float
    num_train_epochs: float
    batch_size: int
    eval_steps: int
    save_steps: int
    warmup: float
    weight_decay: float
    max_grad_norm: float
    gradient_accumulation_steps: int
    bf16: bool
    seed: int
    logging_steps: int
    save_total_limit: int
    device: Literal["auto", "cpu"]
    trainer: dict[str, Any]
    max_steps: int = -1


def _arguments(config: MiniLLMConfig, checkpoints: Path) -> TrainingArguments:
    own: dict[str, Any] = {
        name: getattr(config, name, None) for name in _Settings.__dataclass_fields__
    }
    own |= {
        "learning_rate": config.sft_learning_rate,
        "num_train_epochs": config.sft_epochs,
        "batch_size": config.sft_batch_size,
        "eval_steps": config.sft_eval_steps,
        "save_steps": config.sft_eval_steps,
        "max_steps": -1,
    }
    return trainer_arguments(_Settings(**own), checkpoints, lr_scheduler_type="cosine")
