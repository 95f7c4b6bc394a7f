"""Settings of one stage of continual pre-training: one YAML file, one dataclass."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .objective import ObjectiveName
from .optimizer import OptimizerName
from .schedule import Shape
from .source import Source, ValidationSource

_MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "start_from",
    "micro_batch_size",
    "gradient_checkpointing",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "eval_steps",
    "tensorboard",
    "plot",
    "progress",
    "token_cache",
    "device",
}


@dataclass(kw_only=True)
class ContinualConfig:
    """What `train_continual` does in one stage.

    Weights: `start_from` is a hub name, a model folder, or the `output_dir` of an earlier stage,
    of which the weights before the anneal are taken where there are any; or `new_model` has the
    fields of a transformers configuration, `model_type` among them, for a model from scratch, with
    `tokenizer` (folder or hub name) or `vocabulary_size` (one is trained on the sources).

    Data: `replay_ratio` of every batch comes from `replay`, the rest from `new`. `max_steps` or
    `tokens` says how long the stage is, replayed tokens counted in; by default it is as many tokens
    as one pass over `new` has, so that replay costs no extra computation (but leaves the end of
    `new` unread). `batch_size` is the rows of a step over all processes, `micro_batch_size` those
    of one forward pass of a process; gradients are accumulated in between.

    Schedule (schedule.py): `warmup`, `cooldown_end` and `anneal` are shares of all steps below 1,
    else numbers of steps; `anneal` is the length of the last phase. `min_learning_rate` defaults to
    a tenth of `learning_rate`, `constant_learning_rate` (the plateau of the infinite schedule) to
    0.55 of it. An infinite schedule that starts from a stage with one goes on at that stage's
    plateau; warm-up and cooldown are then left out.

    `objective: causal` predicts the next token, `masked` (encoders) a `corrupted_share` of masked
    tokens, `span_corruption` (encoder-decoders) spans of `mean_span` tokens. `bf16` computes in
    bfloat16 with weights in float32. `attn_implementation: eager` is faster for short rows on a
    CPU. `token_cache`: folder of the tokenised sources; null: in the user's cache directory.
    """

    output_dir: str
    new: list[Source]
    replay: list[Source] = field(default_factory=list)
    replay_ratio: float = 0.0
    validation: list[ValidationSource] = field(default_factory=list)
    start_from: str | None = None
    new_model: dict[str, Any] | None = None
    tokenizer: str | None = None
    vocabulary_size: int | None = None

    objective: ObjectiveName = "causal"
    corrupted_share: float = 0.15
    mean_span: float = 3.0

    sequence_length: int = 1024
    batch_size: int = 64
    micro_batch_size: int = 8
    tokens: int | None = None
    max_steps: int | None = None

    schedule: Literal["cosine", "constant", "infinite"] = "cosine"
    learning_rate: float = 3e-4
    min_learning_rate: float | None = None
    constant_learning_rate: float | None = None
    warmup: float = 0.01
    cooldown_end: float = 0.6
    cooldown_shape: Shape = "cosine"
    anneal: float = 0.1

    optimizer: OptimizerName = "adamw"
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    bf16: bool = False
    gradient_checkpointing: bool = False
    attn_implementation: str = "sdpa"
    seed: int = 0

    eval_steps: int = 200
    eval_rows: int = 64
    logging_steps: int = 10
    save_steps: int = 200
    save_total_limit: int = 2
    token_cache: str | None = None
    tensorboard: bool = True
    plot: bool = True
    progress: bool = True
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        for name in (
            *("sequence_length", "batch_size", "micro_batch_size", "eval_steps", "eval_rows"),
            *("logging_steps", "save_steps", "save_total_limit", "tokens", "max_steps"),
        ):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("sequence_length", self.sequence_length >= 2, "at least 2")
        for name in ("warmup", "cooldown_end", "anneal", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("max_grad_norm", self.max_grad_norm > 0, "above 0")
        self._require("replay_ratio", 0 <= self.replay_ratio < 1, "at least 0 and below 1")
        self._require("corrupted_share", 0 < self.corrupted_share < 1, "between 0 and 1")
        self._require("mean_span", self.mean_span >= 1, "at least 1")
        self._require("adam_betas", len(self.adam_betas) == 2, "two numbers")
        self._check_sources()
        self._check_model()

    def _check_sources(self) -> None:
        if not self.new:
            raise ValueError("new must name at least one source")
        if self.replay_ratio > 0 and not self.replay:
            raise ValueError(f"replay_ratio is {self.replay_ratio}, but replay names no source")
        if self.tokens is not None and self.max_steps is not None:
            raise ValueError("tokens and max_steps exclude each other: both set the stage's length")
        for group in ([*self.replay, *self.new], self.validation):
            names = [source.name for source in group]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two sources are called {', '.join(twice)}: names must differ")

    def _check_model(self) -> None:
        if self.new_model is None and (self.tokenizer or self.vocabulary_size):
            raise ValueError(
                "tokenizer and vocabulary_size are for new_model: a model that is started from "
                "keeps its own tokenizer"
            )
        if self.new_model is None:
            return
        if (self.tokenizer is None) == (self.vocabulary_size is None):
            raise ValueError("new_model needs one of tokenizer and vocabulary_size")
        if self.start_from is not None:
            raise ValueError("start_from and new_model exclude each other")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    @property
    def floor(self) -> float:
        """The lowest learning rate of a decay."""
        given = self.min_learning_rate
        return 0.1 * self.learning_rate if given is None else given

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields, other than harmless ones, in which a resumed stage's settings differ."""
        ours = asdict(self)
        names = (set(ours) | set(other)) - _MAY_CHANGE_ON_RESUME
        return sorted(name for name in names if ours.get(name) != other.get(name))
