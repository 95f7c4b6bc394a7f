"""One gist training run: from a configuration to an artifact folder."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...compress.adapter import GistAdapter, model_card
from ...compress.compressor import check_gist_support
from ...compress.config import GistConfig
from ...compress.fingerprint import model_fingerprint
from ..checkpoints import CHECKPOINTS, checkpoint_to_resume, write_run_config
from ..config import ConfigError, load_config
from ..extras import require_extras
from ..records import DataError
from ..tensorboard import tensorboard_callbacks
from .batch import GistExample
from .config import GistTrainingConfig
from .data import Limits, load_examples
from .evaluation import ARMS, Arm
from .masked import Attention, MaskedGist, add_gist_token
from .trainer import GistMethod, GistTrainer, training_arguments
from .two_pass import TwoPassGist

logger = logging.getLogger(__name__)


def train_gist(
    config: GistTrainingConfig | str | Path,
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> Path:
    """Train by `config` (or the YAML file of that path) and return the artifact's folder.

    `resume` goes on from the newest checkpoint under `output_dir`, exactly where it stopped;
    `start_from` is a gist adapter folder whose values a new run begins with. They exclude each
    other.

    The artifact of form two_pass is a gist adapter folder; that of form masked a model folder with
    its tokenizer and `gist_adapter/` inside. Checkpoints (with the Trainer's pickled state) lie in
    `checkpoints/`, TensorBoard files in `runs/`. Raises ConfigError, DataError, GistAdapterError.
    """
    if not isinstance(config, GistTrainingConfig):
        config = load_config(config, GistTrainingConfig)
    require_extras("torchmetrics", tensorboard=config.tensorboard)
    _require_files(config)
    output = Path(config.output_dir)
    checkpoint = _checkpoint(config, output, resume, start_from)
    model, tokenizer = _load_model(config)
    method = _method(config, model, tokenizer, start_from)
    train, held_out = _examples(config, model, tokenizer)
    write_run_config(config, output)
    trainer = GistTrainer(
        method,
        config,
        training_arguments(config, output / CHECKPOINTS),
        tokenizer,
        train,
        held_out,
        tensorboard_callbacks(config.tensorboard, output),
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.args.should_save:
        report = _final_report(trainer, config, held_out)
        facts = _training_facts(config, train, trainer.state.global_step, result.training_loss)
        _write_artifact(method, config, tokenizer, output, facts, report)
    return output


def _require_files(config: GistTrainingConfig) -> None:
    """Miss a file now, not after a large model has been loaded."""
    for path in (config.train_data, config.eval_data):
        if path is not None and not Path(path).is_file():
            raise DataError(f"{path} cannot be read: there is no such file")


def _checkpoint(
    config: GistTrainingConfig, output: Path, resume: bool, start_from: str | Path | None
) -> str | None:
    """The checkpoint to resume from; refuses what would overwrite or mix runs."""
    if resume and start_from is not None:
        raise ConfigError(
            "resume and start_from exclude each other: resume goes on with a run of this "
            "output_dir, start_from begins a new one with another adapter's values"
        )
    return checkpoint_to_resume(config, output, resume)


def _load_model(config: GistTrainingConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    dtype = getattr(torch, config.dtype)
    attention = "eager" if config.attn_implementation == "eager" else "sdpa"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=dtype, attn_implementation=attention
        )
        tokenizer = AutoTokenizer.from_pretrained(config.model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: {config.model!r} cannot be loaded: {error}") from error
    check_gist_support(model)
    return model, tokenizer


def _method(
    config: GistTrainingConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    start_from: str | Path | None,
) -> GistMethod:
    if config.form == "masked":
        if start_from is not None:
            raise ConfigError(
                "start_from is for gist adapters; in form masked, set model to the folder to "
                "start from"
            )
        gist_ids = [add_gist_token(model, tokenizer)] * config.num_gist_tokens
        choices: dict[str, Attention] = {"auto": "auto", "flex_attention": "flex"}
        return MaskedGist(
            model,
            gist_ids,
            sink_tokens=config.sink,
            condition=config.condition,
            attention=choices.get(config.attn_implementation, "dense"),
        )
    adapter = _adapter(config, model, tokenizer, start_from)
    return TwoPassGist(
        model, adapter, distill_weight=config.distill_weight, lm_weight=config.lm_weight
    )


def _adapter(
    config: GistTrainingConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    start_from: str | Path | None,
) -> GistAdapter:
    settings = GistConfig(
        num_gist_tokens=config.num_gist_tokens,
        sink_tokens=config.sink,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=config.target_modules,
        base_model=config.base_model_name or config.model,
        base_fingerprint=model_fingerprint(model, tokenizer, source=config.model),
    )
    fresh = GistAdapter.create(model, settings, seed=config.seed, noise=config.init_noise)
    if start_from is None:
        return fresh
    begun = GistAdapter.load(start_from)
    for name in ("num_gist_tokens", "sink_tokens", "lora_rank", "target_modules"):
        ours, theirs = getattr(settings, name), getattr(begun.config, name)
        if ours != theirs:
            raise ConfigError(f"start_from: its {name} is {theirs!r}, the configuration's {ours!r}")
    fresh.copy_values(begun)
    return fresh


def _examples(
    config: GistTrainingConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[GistExample], list[GistExample] | None]:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = Limits(
        max_tokens=min(filter(None, (config.max_tokens, longest)), default=2**31),
        gist_tokens=config.num_gist_tokens,
        skip_too_long=config.skip_too_long,
        turns_per_prompt=config.turns_per_prompt,
    )

    def load(path: str) -> list[GistExample]:
        examples = load_examples(
            path, tokenizer, limits, use_chat_template=config.use_chat_template
        )
        _check_sink(examples, config.sink, path)
        logger.info("%s: %d examples", path, len(examples))
        return examples

    return load(config.train_data), load(config.eval_data) if config.eval_data else None


def _check_sink(examples: list[GistExample], sink: int, path: str) -> None:
    shortest = min(len(example.prompt_ids) for example in examples)
    if shortest < sink:
        raise ConfigError(
            f"sink_tokens is {sink}, but {path} has a prompt of {shortest} token(s): lower "
            "sink_tokens or drop the prompt"
        )


def _final_report(
    trainer: GistTrainer, config: GistTrainingConfig, held_out: list[GistExample] | None
) -> dict[Arm, dict[str, float]]:
    if not held_out:
        return {}
    arms: tuple[Arm, ...] = ARMS if config.condition == "gist" else ("full", "none")
    return trainer.measure(held_out, arms)


def _training_facts(
    config: GistTrainingConfig, train: list[GistExample], steps: int, loss: float
) -> dict[str, Any]:
    data = Path(config.train_data)
    facts: dict[str, Any] = {
        "data": data.name,
        "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "examples": len(train),
        "answers": sum(len(example.turns) for example in train),
        "steps": steps,
        "mean_loss": loss,
    }
    names = ("form", "condition", "seed", "batch_size", "gradient_accumulation_steps", "bf16")
    facts |= {name: getattr(config, name) for name in names}
    facts["learning_rate"] = config.peak_learning_rate
    if config.form == "two_pass":
        facts |= {name: getattr(config, name) for name in ("distill_weight", "lm_weight", "turns")}
    return facts


def _write_artifact(
    method: GistMethod,
    config: GistTrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    facts: dict[str, Any],
    report: dict[Arm, dict[str, float]],
) -> None:
    adapter = method.gist_adapter()
    adapter.config.training = facts
    adapter.config.metrics = {str(arm): values for arm, values in report.items()}
    if isinstance(method, TwoPassGist):
        adapter.save(output)
        return
    method.model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    adapter.config.base_model = config.base_model_name or config.model
    adapter.config.base_fingerprint = model_fingerprint(method.model, tokenizer, source=output)
    if config.condition == "gist":
        adapter.save(output / "gist_adapter")
    (output / "README.md").write_text(model_card(adapter.config), encoding="utf-8")
