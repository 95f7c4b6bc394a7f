"""Settings of one distillation run: one YAML file, one dataclass."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..continual.source import Source

Method = Literal["minillm", "sft", "kd", "seqkd"]
Template = Literal["plain", "instruction", "chat"]
Scheduler = Literal["constant_with_warmup", "linear", "cosine"]

_MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "logging_steps",
    "save_total_limit",
    "eval_batch_size",
    "generation_batch_size",
    "test_data",
    "test_samples",
    "printed_samples",
    "tensorboard",
}


@dataclass(kw_only=True)
class MiniLLMConfig:
    """What `train_minillm` does.

    `model` is the student, `teacher` a model of the same tokenizer: names or folders of
    transformers' causal language models. `method`: `minillm`, or a baseline: `sft` (fine-tuning on
    the responses of the data; needs no teacher), `kd` (the teacher's distribution at every token of
    the data), `seqkd` (fine-tuning on the teacher's own responses, which are written to
    `teacher_responses`, by default a file in `output_dir`, and used again where they exist).

    Data (data.py): JSONL of `prompt_field` and `response_field`, or of instruction, input and
    output. `prompt_template` says what the model reads: `plain` the prompt as it is, `instruction`
    the paper's template, `chat` the tokenizer's own. Without `validation_data`, a
    `validation_share` of the training data is held out; the kept checkpoint is chosen on validation
    alone. `test_data` is read once, at the end: `test_samples` responses to each of its prompts,
    and greedy ones. `temperature` is that of measured samples and of the teacher's responses;
    rollouts are drawn at 1. `lm_data` is the corpus of minillm's language-modelling loss: a text
    source as those of `gistserve train continual`.

    The fine-tuning of the baselines, and minillm's warm start, take the settings `sft_*`; 0
    `sft_epochs` (minillm only) begins with the model as given. Best on validation is by `select_by`
    (of one sample to each of `validation_prompts`), for the warm start by the loss. `kd_share` is
    the share of the teacher's distribution in kd's loss, beside the data's own tokens.

    Minillm (arXiv 2306.08543, section 2): `teacher_mix` is the paper's alpha; 0 samples from the
    student alone. `length_normalisation: false` and `single_step: false` leave out the paper's
    other two stabilisers. A buffer of `rollouts` responses of up to `max_new_tokens` is learned
    `inner_epochs` times in minibatches of `minibatch`, over all processes; `max_steps` counts
    minibatches. Checkpoints and evaluations fall on the ends of buffers: after `save_steps` and
    `eval_steps` or more. The learning rate rises over `warmup` (a share of all steps below 1,
    else a number of steps), then is constant or falls by `lr_scheduler`. With `lm_data` each step
    also learns `minibatch` rows of it, `lm_weight` times their mean loss by token.

    `bf16` computes in bfloat16 with the student's weights in float32. `trainer` holds further
    settings of `transformers.TrainingArguments` for the fine-tuning by name.
    """

    model: str
    train_data: str
    output_dir: str
    teacher: str | None = None
    method: Method = "minillm"
    validation_data: str | None = None
    validation_share: float = 0.05
    test_data: str | None = None
    lm_data: Source | None = None
    prompt_field: str = "prompt"
    response_field: str = "response"
    prompt_template: Template = "plain"
    teacher_responses: str | None = None
    max_prompt_tokens: int = 256
    max_new_tokens: int = 256

    sft_epochs: float = 3.0
    sft_learning_rate: float = 5e-4
    sft_batch_size: int = 32
    sft_eval_steps: int = 200
    kd_share: float = 1.0
    trainer: dict[str, Any] = field(default_factory=dict)

    teacher_mix: float = 0.2
    length_normalisation: bool = True
    single_step: bool = True
    clip: float = 0.2
    rollouts: int = 256
    inner_epochs: int = 4
    minibatch: int = 64
    lm_weight: float = 1.0
    learning_rate: float = 5e-6
    max_steps: int = 5000
    temperature: float = 1.0
    eval_steps: int = 200

    lr_scheduler: Scheduler = "constant_with_warmup"
    warmup: float = 0.0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    bf16: bool = False
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    gradient_checkpointing: bool = False
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    select_by: Literal["rouge_l", "loss", "reverse_kl"] = "rouge_l"
    eval_batch_size: int = 64
    generation_batch_size: int = 64
    validation_prompts: int = 512
    test_samples: int = 5
    printed_samples: int = 3
    logging_steps: int = 10
    save_steps: int = 200
    save_total_limit: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in (
            *("max_prompt_tokens", "max_new_tokens", "sft_batch_size", "sft_eval_steps"),
            *("rollouts", "inner_epochs", "minibatch", "max_steps", "eval_steps"),
            *("gradient_accumulation_steps", "eval_batch_size", "generation_batch_size"),
            *("validation_prompts", "test_samples", "logging_steps", "save_steps"),
            "save_total_limit",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "weight_decay", "lm_weight", "sft_epochs", "printed_samples"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("learning_rate", "sft_learning_rate", "temperature", "max_grad_norm"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        self._require("teacher_mix", 0 <= self.teacher_mix < 1, "at least 0 and below 1")
        self._require("clip", 0 < self.clip < 1, "between 0 and 1")
        self._require("kd_share", 0 < self.kd_share <= 1, "above 0 and at most 1")
        self._check_method()

    def _check_method(self) -> None:
        if self.select_by == "reverse_kl" and self.teacher is None:
            raise ValueError("select_by: reverse_kl needs a teacher")
        if self.method == "sft":
            return self._check_baseline()
        if self.teacher is None:
            raise ValueError(f"method {self.method} needs a teacher")
        if self.method != "minillm":
            return self._check_baseline()
        if self.rollouts % self.minibatch:
            raise ValueError(
                f"rollouts must be a multiple of minibatch ({self.minibatch}), got {self.rollouts}"
            )
        return None

    def _check_baseline(self) -> None:
        if self.sft_epochs == 0:
            raise ValueError(f"sft_epochs must be above 0 for method {self.method}")
        if self.lm_data is not None:
            raise ValueError(f"lm_data is for method minillm, not for {self.method}")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    @property
    def steps_per_buffer(self) -> int:
        """Minibatches that one buffer of rollouts is learned in."""
        return self.rollouts // self.minibatch * self.inner_epochs

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields, other than harmless ones, in which a resumed run's settings differ."""
        ours = asdict(self)
        names = (set(ours) | set(other)) - _MAY_CHANGE_ON_RESUME
        return sorted(name for name in names if ours.get(name) != other.get(name))
