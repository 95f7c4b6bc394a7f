"""Settings of one gist training run: one YAML file, one dataclass."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .batch import Turns
from .mask import Condition

_MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "attn_implementation",
    "logging_steps",
    "save_steps",
    "eval_steps",
    "save_total_limit",
    "eval_batch_size",
    "eval_generate",
    "eval_data",
    "tensorboard",
    "base_model_name",
}


@dataclass(kw_only=True)
class GistTrainingConfig:
    """What `train_gist` does.

    `form: two_pass` (default) freezes the model and trains a gist adapter with `distill_weight` x
    KL from the model reading the full prompt + `lm_weight` x cross-entropy of the answers.
    `form: masked` is that of the paper (arXiv 2304.08467): a `<GIST>` token is appended and the
    whole model is trained by cross-entropy under the gist mask, or under a control `condition`.

    `model`: name or folder of any causal language model. `train_data`, `eval_data`: JSONL files
    (see data.py). `dtype` is that of the loaded weights, "bfloat16" only for a frozen base; `bf16`
    computes in bfloat16 (autocast). `attn_implementation: eager` takes more memory than sdpa, but
    is faster for short prompts on a CPU, where sdpa's backward pass is slow; `flex_attention` (form
    masked, on CUDA) computes only what the gist mask leaves; `auto` is flex_attention where that
    works, else sdpa. `batch_size` counts prompts on a device; a prompt brings up to
    `turns_per_prompt` turns. `warmup` is a share of all steps below 1, else a number of steps.
    `optimizer: muon` (two_pass only) orthogonalises the updates of the LoRA's matrices; it learned
    the embedded model's task in far fewer steps than adamw, at a learning rate of 4e-3.
    `sink_tokens`, `learning_rate` and `lr_scheduler`: null takes the form's default (two_pass: 1,
    5e-4 and cosine; masked: 0, 2e-5 and cosine). `trainer` holds further settings of
    `transformers.TrainingArguments` by name.
    """

    model: str
    train_data: str
    output_dir: str
    eval_data: str | None = None
    form: Literal["two_pass", "masked"] = "two_pass"
    condition: Condition = "gist"
    base_model_name: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attn_implementation: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"

    num_gist_tokens: int = 8
    sink_tokens: int | None = None
    lora_rank: int = 16
    lora_alpha: float = 32.0
    target_modules: list[str] | str = "all-linear"
    init_noise: float = 0.1

    distill_weight: float = 1.0
    lm_weight: float = 0.1
    turns: Turns = "independent"
    turns_per_prompt: int = 8
    use_chat_template: bool = True
    max_tokens: int | None = None
    skip_too_long: bool = False

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float | None = None
    lr_scheduler: str | None = None
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    bf16: bool = False
    seed: int = 0

    eval_steps: int = 200
    eval_batch_size: int = 16
    eval_generate: bool = False
    logging_steps: int = 10
    save_steps: int = 200
    save_total_limit: int = 2
    tensorboard: bool = True
    device: Literal["auto", "cpu"] = "auto"
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_gist_tokens", "turns_per_prompt", "batch_size", "eval_batch_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("logging_steps", "save_steps", "eval_steps", "save_total_limit"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require(
            "gradient_accumulation_steps", self.gradient_accumulation_steps >= 1, "at least 1"
        )
        for name in ("lora_rank", "distill_weight", "lm_weight", "warmup", "init_noise"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("sink_tokens", (self.sink_tokens or 0) >= 0, "at least 0")
        self._require("learning_rate", self.learning_rate is None or self.learning_rate > 0, "> 0")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError("one of max_steps and num_train_epochs must be above 0")
        if self.form == "two_pass" and self.distill_weight + self.lm_weight == 0:
            raise ValueError("distill_weight and lm_weight are both 0: nothing would be learned")
        if self.form == "two_pass" and self.condition != "gist":
            raise ValueError(f"condition: {self.condition} needs form: masked")
        if self.form == "two_pass" and self.attn_implementation == "flex_attention":
            raise ValueError(
                "attn_implementation: flex_attention is for the mask of form masked; two_pass has "
                "none: set auto, sdpa or eager"
            )
        if self.form == "masked" and self.optimizer == "muon":
            raise ValueError("optimizer: muon is for matrices alone: form masked needs adamw")
        if self.form == "masked" and self.dtype != "float32":
            raise ValueError(
                "form: masked trains the weights themselves, and bfloat16 loses small updates: "
                "set dtype: float32 (and bf16: true for speed)"
            )

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    @property
    def sink(self) -> int:
        if self.sink_tokens is not None:
            return self.sink_tokens
        return 1 if self.form == "two_pass" else 0

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 5e-4 if self.form == "two_pass" else 2e-5

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields, other than harmless ones, in which a resumed run's settings differ."""
        ours = asdict(self)
        names = (set(ours) | set(other)) - _MAY_CHANGE_ON_RESUME
        return sorted(name for name in names if ours.get(name) != other.get(name))
