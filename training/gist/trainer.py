"""`transformers.Trainer` for both forms of gist training."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from ..config import ConfigError
from .batch import GistExample, collate, to_device
from .config import GistTrainingConfig
from .evaluation import Arm, evaluate_gist
from .masked import MaskedGist
from .two_pass import TwoPassGist

GistMethod = TwoPassGist | MaskedGist

_PARTS = ("lm", "distill")
_LOGGED_OF_BOUNDS = ("nll", "exact_match", "rouge_l")
_LOGGED = (*_LOGGED_OF_BOUNDS, "kl_mean", "top1_agreement", "recovered_fraction")


class GistTrainer(Trainer):
    """Trains a `TwoPassGist` or `MaskedGist` on lists of `GistExample`.

    Checkpoints hold what is trained (the adapter folder, or the model folder) beside the Trainer's
    own optimizer, schedule, random and position state, so a resumed run equals an uninterrupted
    one. Evaluation is that of evaluation.py.
    """

    def __init__(
        self,
        method: GistMethod,
        config: GistTrainingConfig,
        args: TrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        train_examples: Sequence[GistExample],
        eval_examples: Sequence[GistExample] | None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        super().__init__(
            model=method,
            args=args,
            data_collator=partial(collate, pad_id=pad_id, turns=config.turns),
            train_dataset=list(train_examples),
            eval_dataset=list(eval_examples) if eval_examples else None,
            callbacks=callbacks,
        )
        self._method = method
        self._config = config
        self._tokenizer = tokenizer
        self._parts = dict.fromkeys(_PARTS, 0.0)
        self._parts_step = 0

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Muon over everything trained if so configured, else the Trainer's own choice."""
        if getattr(self, "optimizer", None) is None and self._config.optimizer == "muon":
            self.optimizer = torch.optim.Muon(
                [p for p in (model or self._method).parameters() if p.requires_grad],
                lr=self._config.peak_learning_rate,
                weight_decay=self._config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        return super().create_optimizer(model)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The method's loss; its parts are kept for the next log line."""
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        for name in _PARTS:
            if name in outputs:
                self._parts[name] += float(outputs[name]) * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each part of the loss since the last training log line."""
        steps = self.state.global_step - self._parts_step
        if "loss" in logs and steps > 0:
            logs |= {name: value / steps for name, value in self._parts.items() if value}
            self._parts = dict.fromkeys(_PARTS, 0.0)
            self._parts_step = self.state.global_step
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The loss, and the measures of the arms full, gist and none, on held-out examples."""
        examples = eval_dataset if eval_dataset is not None else self.eval_dataset
        arms: tuple[Arm, ...] = ("full", "gist", "none")
        if self._config.condition != "gist":
            arms = ("full", "none")
        report = self.measure(examples, arms)
        metrics = {f"{metric_key_prefix}_loss": self._mean_loss(examples)}
        for arm, values in report.items():
            names = _LOGGED if arm == "gist" else _LOGGED_OF_BOUNDS
            metrics |= {f"{metric_key_prefix}_{arm}_{n}": values[n] for n in names if n in values}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args,
            self.state,
            self.control,  # type: ignore[has-type]
            metrics,
        )
        return metrics

    def measure(
        self, examples: Sequence[GistExample], arms: Sequence[Arm]
    ) -> dict[Arm, dict[str, float]]:
        """`evaluate_gist` with this run's model, adapter and settings."""
        with self.accelerator.autocast():
            return evaluate_gist(
                self._method.model,
                self._tokenizer,
                self._method.gist_adapter(),
                examples,
                arms=arms,
                batch_size=self._config.eval_batch_size,
                generate=self._config.eval_generate,
                progress=not self.args.disable_tqdm,
            )

    @torch.no_grad()
    def _mean_loss(self, examples: Sequence[GistExample]) -> float:
        was_training = self._method.training
        self._method.eval()
        total, tokens = 0.0, 0
        for start in range(0, len(examples), self._config.eval_batch_size):
            chunk = examples[start : start + self._config.eval_batch_size]
            batch = to_device(collate(chunk, turns=self._config.turns), self.args.device)
            with self.accelerator.autocast():
                outputs = self._method(**batch)
            total += float(outputs["loss"]) * int(outputs["tokens"])
            tokens += int(outputs["tokens"])
        self._method.train(was_training)
        return total / tokens

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            self._method.save_checkpoint(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._method.load_checkpoint(Path(resume_from_checkpoint))


def training_arguments(config: GistTrainingConfig, checkpoints: Path) -> TrainingArguments:
    """TrainingArguments of a run. ConfigError for what `config.trainer` has wrong."""
    settings: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": config.peak_learning_rate,
        "lr_scheduler_type": config.lr_scheduler or "cosine",
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "bf16": config.bf16,
        "seed": config.seed,
        "data_seed": config.seed,
        "eval_strategy": "steps" if config.eval_data else "no",
        "eval_steps": config.eval_steps,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_total_limit": config.save_total_limit,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": True,  # the last layer's queries and MLP act on no gist
        "dataloader_pin_memory": torch.cuda.is_available() and config.device != "cpu",
        "use_cpu": config.device == "cpu",
        "report_to": "none",
        "disable_tqdm": False,
    }
    try:
        args = TrainingArguments(**(settings | config.trainer))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    if args.gradient_checkpointing:
        raise ConfigError(
            "trainer: gradient_checkpointing drops the key/value cache that gist training reads; "
            "lower batch_size and raise gradient_accumulation_steps instead"
        )
    if args.n_gpu > 1:  # nn.DataParallel would copy the module whose hooks carry the LoRA
        args._n_gpu = 1
    return args
