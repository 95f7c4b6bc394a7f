"""The settings that every run of transformers' Trainer shares."""

from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainingArguments

from .config import ConfigError


class TrainerConfig(Protocol):
    """The fields of a run's settings that become TrainingArguments."""

    learning_rate: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    num_train_epochs: float
    max_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    bf16: bool
    seed: int
    eval_steps: int
    logging_steps: int
    save_steps: int
    save_total_limit: int
    device: Any
    trainer: dict[str, Any]


def trainer_arguments(
    config: TrainerConfig, checkpoints: Path, **settings: Any
) -> TrainingArguments:
    """TrainingArguments of a run, with a method's own `settings`; `config.trainer` comes last.

    Raises ConfigError for what `config.trainer` has wrong.
    """
    shared: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": config.learning_rate,
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
        "eval_strategy": "steps",
        "eval_steps": config.eval_steps,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_total_limit": config.save_total_limit,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available() and config.device != "cpu",
        "use_cpu": config.device == "cpu",
        "report_to": "none",
        "disable_tqdm": False,
    }
    try:
        args = TrainingArguments(**(shared | settings | config.trainer))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    if args.n_gpu > 1:  # nn.DataParallel copies modules and what they carry; use accelerate
        args._n_gpu = 1
    return args
