"""The embedded model from nothing: tokenizer, base model, gist adapter."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..gist import train_gist
from ..gist.config import GistTrainingConfig
from .base import BaseConfig, BaseTrainer, lift_config
from .policy import PolicyMix
from .policy_file import write_policies
from .tokenizer import train_tokenizer

STAGES = ("tokenizer", "base", "gist")

TRAIN_POLICIES = 12_000
EVAL_POLICIES = 64
TURNS_PER_POLICY = 6

GIST_MIX = PolicyMix(min_rules=3, max_rules=6, max_fillers=8, named_share=0.5)


def train_demo(
    output: Path,
    *,
    stage: str = "all",
    seed: int = 0,
    base: BaseConfig | None = None,
    lift: BaseConfig | None = None,
    gist: GistTrainingConfig | None = None,
    policies: int = TRAIN_POLICIES,
) -> Path:
    """Run a stage ("tokenizer", "base", "gist", or "all" of them) and return the model's folder.

    A base run that was stopped goes on at its last saved state, and so does a gist run.
    ``output`` then holds ``model`` (with ``gist_adapter`` in it, as it is shipped), the training
    states and the gist data. ValueError for an unknown stage or one whose forerunner is missing.
    """
    if stage not in (*STAGES, "all"):
        raise ValueError(f"stage must be one of {', '.join(STAGES)} or all, got {stage!r}")
    model = output / "model"
    if stage in ("tokenizer", "all"):
        train_tokenizer(seed).save_pretrained(model)
    if stage in ("base", "all"):
        _train_base(output, model, base or BaseConfig(seed=seed), lift or lift_config(seed))
    if stage in ("gist", "all"):
        _train_adapter(output, model, gist or gist_config(output, seed), policies, seed)
    return model


def _train_base(output: Path, model: Path, base: BaseConfig, lift: BaseConfig) -> None:
    tokenizer = _tokenizer(model)
    read = BaseTrainer(tokenizer, base, output / "base_training").run()
    lifted = BaseTrainer(tokenizer, lift, output / "lift_training", start_from=read).run()
    lifted.save_pretrained(model)


def gist_config(output: Path, seed: int) -> GistTrainingConfig:
    """Settings of the adapter's first run."""
    return GistTrainingConfig(
        model=str(output / "model"),
        base_model_name="gistserve-demo",
        train_data=str(output / "gist_data" / "train.jsonl"),
        eval_data=str(output / "gist_data" / "eval.jsonl"),
        output_dir=str(output / "gist_training"),
        attn_implementation="eager",
        num_gist_tokens=12,
        lora_rank=32,
        lora_alpha=64.0,
        init_noise=1.0,
        distill_weight=0.0,  # the right reply is unique: the label says all a teacher could
        lm_weight=1.0,
        turns_per_prompt=TURNS_PER_POLICY,
        optimizer="muon",
        learning_rate=4e-3,
        warmup=20,
        max_steps=1500,
        batch_size=16,
        bf16=True,
        eval_steps=250,
        save_steps=250,
        seed=seed,
        device="cpu",
    )


def polish_config(first: GistTrainingConfig) -> GistTrainingConfig:
    """Settings of the second run, which begins with the first one's adapter and new policies."""
    return replace(
        first,
        train_data=str(Path(first.train_data).with_name("polish.jsonl")),
        output_dir=f"{first.output_dir}_polish",
        learning_rate=2.5e-3,
        seed=first.seed + 1,
    )


def _train_adapter(
    output: Path, model: Path, config: GistTrainingConfig, policies: int, seed: int
) -> None:
    if not (model / "model.safetensors").exists():
        raise ValueError(f"{model} holds no base model: run the stage 'base' first")
    polish = polish_config(config)
    held_out = Path(config.train_data).with_name("eval.jsonl")
    for path, count, turns in (
        (held_out, EVAL_POLICIES, 2),
        (Path(config.train_data), policies, TURNS_PER_POLICY),
        (Path(polish.train_data), policies, TURNS_PER_POLICY),
    ):
        if not path.exists():
            write_policies(path, GIST_MIX, f"{seed}/gist/{path.stem}", count, turns)
    first = _run(config)
    adapter = _run(polish, start_from=first)
    shipped = model / "gist_adapter"
    shutil.rmtree(shipped, ignore_errors=True)
    shutil.copytree(adapter, shipped, ignore=shutil.ignore_patterns("checkpoints", "runs"))


def _run(config: GistTrainingConfig, start_from: Path | None = None) -> Path:
    """A gist run, from the start or from where it was stopped; nothing if it is finished."""
    output = Path(config.output_dir)
    if (output / "gist_config.json").exists():
        return output
    if any((output / "checkpoints").glob("checkpoint-*")):
        return train_gist(config, resume=True)
    return train_gist(config, start_from=start_from)


def _tokenizer(model: Path) -> PreTrainedTokenizerFast:
    if not (model / "tokenizer.json").exists():
        raise ValueError(f"{model} holds no tokenizer: run the stage 'tokenizer' first")
    return AutoTokenizer.from_pretrained(model)
