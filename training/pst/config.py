"""Settings of one PST run: one YAML file, one dataclass."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...compress.sparse.pattern import Pattern, check_sparsity
from .functions import Factors
from .pruner import Method, PruneSettings

Task = Literal["classification", "causal", "seq2seq"]
PatternName = Literal["unstructured", "balanced", "2:4"]

_MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "eval_batch_size",
    "test_data",
    "tensorboard",
}


@dataclass(kw_only=True)
class PSTConfig:
    """What `train_pst` does.

    `model`: name or folder of a transformers model. `task`: `classification` (a sequence
    classification model), `causal` or `seq2seq` (text written from data). `train_data`,
    `validation_data`, `test_data`: see data.py; without `validation_data`, a `validation_share` of
    the training inputs is held out. The best checkpoint at the final sparsity on validation is
    kept; `test_data` is read once, at the end, by the kept model.

    `method`: `pst`, or a baseline: `dense` (plain fine-tuning), `magnitude` (MaP), `movement`
    (MvP). `layers`: full names or endings of the linear layers to prune, null for all in the
    transformer blocks. `also_train`: endings of parameters' names (`bias`, `norm.weight`) that are
    trained though the method freezes them: PST all but its own, MaP and MvP the embeddings.

    `score_learning_rate` and `head_learning_rate` (of what starts random) are null for
    `learning_rate`. `warmup` is a share of all steps below 1, else a number of steps; the rate then
    falls linearly to zero. `dtype: bfloat16` stores PST's frozen weights so; `bf16` computes in
    bfloat16 (autocast). `attn_implementation: eager` is faster than sdpa on a CPU. `select_by:
    metric` compares accuracy or BLEU (of greedy answers), `loss` the validation loss, which costs
    no generation. `trainer` holds further settings of `transformers.TrainingArguments` by name.
    """

    model: str
    task: Task
    train_data: str
    output_dir: str
    validation_data: str | None = None
    validation_share: float = 0.1
    test_data: str | None = None
    text_field: str = "text"
    text_pair_field: str | None = None
    label_field: str = "label"
    max_tokens: int = 512
    max_new_tokens: int = 64

    method: Method = "pst"
    sparsity: float = 0.9
    pattern: PatternName = "unstructured"
    layers: list[str] | None = None
    also_train: list[str] = field(default_factory=list)
    weight_rank: int = 8
    score_rank: int = 8
    beta: float = 1.0
    alpha_1: float = 1.0
    alpha_2: float = 1.0
    initial_sparsity: float = 0.0
    sparsity_warmup: float = 0.1
    sparsity_cooldown: float = 0.3

    learning_rate: float = 5e-4
    score_learning_rate: float | None = None
    head_learning_rate: float | None = None
    warmup: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    bf16: bool = False
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    seed: int = 0

    eval_steps: int = 200
    eval_batch_size: int = 64
    select_by: Literal["metric", "loss"] = "metric"
    logging_steps: int = 10
    save_steps: int = 200
    save_total_limit: int = 2
    tensorboard: bool = True
    measure_memory: bool = False
    device: Literal["auto", "cpu"] = "auto"
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            *("weight_rank", "score_rank", "batch_size", "eval_batch_size", "max_tokens"),
            *("gradient_accumulation_steps", "max_new_tokens", "eval_steps", "logging_steps"),
            *("save_steps", "save_total_limit"),
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "weight_decay", "label_smoothing", "sparsity_warmup"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("learning_rate", "score_learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            self._require(name, value is None or value > 0, "above 0")
        self._require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        self._require("label_smoothing", self.label_smoothing < 1, "below 1")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError("one of max_steps and num_train_epochs must be above 0")
        self._check_sparsity()
        self._check_method()

    def _check_sparsity(self) -> None:
        if self.method == "dense":
            return
        check_sparsity(self.sparsity, Pattern(self.pattern))
        if not 0 <= self.initial_sparsity <= self.sparsity:
            raise ValueError(
                f"initial_sparsity must be between 0 and sparsity ({self.sparsity}), got "
                f"{self.initial_sparsity}"
            )
        if self.sparsity_cooldown < 0 or self.sparsity_warmup + self.sparsity_cooldown > 1:
            raise ValueError(
                "sparsity_warmup and sparsity_cooldown are shares of all steps: not negative, "
                f"together at most 1, got {self.sparsity_warmup} and {self.sparsity_cooldown}"
            )

    def _check_method(self) -> None:
        if self.method != "pst" and self.dtype != "float32":
            raise ValueError(
                f"method {self.method} trains the weights themselves, and bfloat16 loses small "
                "updates: set dtype: float32 (and bf16: true for speed)"
            )
        if self.dtype == "bfloat16" and not self.bf16:
            raise ValueError("dtype: bfloat16 is for bf16: true, which computes in it as well")
        if self.method == "dense" and self.also_train:
            raise ValueError("also_train is for methods that freeze parameters; dense trains all")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    @property
    def prune_settings(self) -> PruneSettings:
        return PruneSettings(
            method=self.method,
            sparsity=self.sparsity,
            pattern=Pattern(self.pattern),
            weight_rank=self.weight_rank,
            score_rank=self.score_rank,
            factors=Factors(self.beta, self.alpha_1, self.alpha_2),
            layers=None if self.layers is None else tuple(self.layers),
        )

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields, other than harmless ones, in which a resumed run's settings differ."""
        ours = asdict(self)
        names = (set(ours) | set(other)) - _MAY_CHANGE_ON_RESUME
        return sorted(name for name in names if ours.get(name) != other.get(name))
