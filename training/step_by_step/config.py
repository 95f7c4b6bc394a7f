"""Settings of one step-by-step run: one YAML file, one dataclass."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .scores import Answers
from .tasks import Labels, Method

_MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "eval_batch_size",
    "printed_samples",
    "test_data",
    "tensorboard",
}


@dataclass(kw_only=True)
class StepByStepConfig:
    """What `train_step_by_step` does.

    `model`: name or folder of a causal or an encoder-decoder model of transformers. `train_data`,
    `validation_data`, `test_data`: see data.py for their records and fields; without
    `validation_data`, a `validation_share` of the training records is held out. `fraction` of what
    is left is trained on: chosen by `seed`, a smaller fraction within a larger one. The best
    checkpoint on validation is kept; `test_data` is read once, at the end, by the kept model.

    `method`: `standard` learns labels; `step_by_step` labels and, as a second task with weight
    `rationale_weight`, rationales; `single_task` one text of rationale and then label. `labels`:
    those of the data (`gold`), or the `teacher`'s. So `standard` is plain fine-tuning with the
    one, and plain distillation with the other.

    `answers` says what labels are, and thus how answers are scored (scores.py): any `text`, one of
    the `choices` that the input lists, or an `equation`.

    Inputs of more than `max_input_tokens` and targets of more than `max_target_tokens` are cut.
    `batch_size` counts examples of one process, each with all of its tasks; `warmup` is a share of
    all steps below 1, else a number of steps. `bf16` computes in bfloat16 with weights in float32.
    `attn_implementation: eager` is faster than sdpa on a CPU. `select_by: accuracy` compares greedy
    answers, `loss` the labels' validation loss, which costs no generation. `trainer` holds further
    settings of `transformers.TrainingArguments` by name.
    """

    model: str
    train_data: str
    output_dir: str
    validation_data: str | None = None
    validation_share: float = 0.1
    test_data: str | None = None
    fraction: float = 1.0
    input_template: str = "{input}"
    label_field: str = "label"
    teacher_label_field: str = "llm_label"
    rationale_field: str = "rationale"
    answers: Answers = "text"

    method: Method = "step_by_step"
    labels: Labels = "gold"
    rationale_weight: float = 1.0

    max_input_tokens: int = 1024
    max_target_tokens: int = 256
    learning_rate: float = 5e-5
    lr_scheduler: str = "linear"
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    bf16: bool = False
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    seed: int = 0

    eval_steps: int = 250
    eval_batch_size: int = 64
    select_by: Literal["accuracy", "loss"] = "accuracy"
    printed_samples: int = 2
    logging_steps: int = 10
    save_steps: int = 250
    save_total_limit: int = 2
    tensorboard: bool = True
    device: Literal["auto", "cpu"] = "auto"
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            *("max_input_tokens", "max_target_tokens", "batch_size", "eval_batch_size"),
            *("gradient_accumulation_steps", "eval_steps", "logging_steps", "save_steps"),
            "save_total_limit",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "weight_decay", "printed_samples"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("learning_rate", "rationale_weight", "max_grad_norm"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        self._require("fraction", 0 < self.fraction <= 1, "above 0 and at most 1")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError("one of max_steps and num_train_epochs must be above 0")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields, other than harmless ones, in which a resumed run's settings differ."""
        ours = asdict(self)
        names = (set(ours) | set(other)) - _MAY_CHANGE_ON_RESUME
        return sorted(name for name in names if ours.get(name) != other.get(name))
