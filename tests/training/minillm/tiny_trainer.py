"""A trainer of tiny models, also for processes of its own."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from gistserve.training.minillm.config import MiniLLMConfig
from gistserve.training.minillm.policy_trainer import Evaluate, MiniLLMTrainer
from gistserve.training.minillm.rollouts import ModelPair
from gistserve.training.minillm.split_model import SplitModel
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = 12
END = 3
PROMPTS = [[1 + i % 5, 4 + i % 7] + [7] * (i % 3) for i in range(10)]


def small_llama(seed: int, width: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attention_dropout=0.5,  # must never show
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def make_config(folder: Path, **changes: Any) -> MiniLLMConfig:
    settings: dict[str, Any] = {
        "rollouts": 8,
        "minibatch": 4,
        "inner_epochs": 2,
        "max_steps": 12,
        "max_new_tokens": 5,
        "learning_rate": 1e-2,
        "lr_scheduler": "linear",
        "logging_steps": 2,
        "save_steps": 4,
        "eval_steps": 4,
        "tensorboard": False,
    }
    return MiniLLMConfig(
        model="student",
        teacher="teacher",
        train_data="prompts",
        output_dir=str(folder),
        **(settings | changes),
    )


def document(index: int) -> list[int]:
    return [(index * 5 + place * place) % WORDS for place in range(9)]


def make_trainer(
    folder: Path, evaluate: Evaluate = lambda step: {"rouge_l": 0.0}, **changes: Any
) -> MiniLLMTrainer:
    config = make_config(folder, **changes)
    teacher = small_llama(1, 16).requires_grad_(False)
    return MiniLLMTrainer(
        config,
        Accelerator(cpu=True, mixed_precision="bf16" if config.bf16 else "no"),
        ModelPair(SplitModel(small_llama(0, 8)), SplitModel(teacher)),
        PROMPTS,
        end_ids=frozenset({END}),
        pad_id=END,
        folder=folder,
        evaluate=evaluate,
        language_rows=document,
    )


def student_of(trainer: MiniLLMTrainer) -> torch.nn.Module:
    return trainer._pair.student.model


def weights(trainer: MiniLLMTrainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in student_of(trainer).named_parameters()}


def killed_at(killed_step: int) -> Evaluate:
    """An evaluation during which the process dies without a word."""

    def evaluate(step: int) -> dict[str, float]:
        if step == killed_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"rouge_l": 0.0}

    return evaluate


if __name__ == "__main__":
    make_trainer(Path(sys.argv[1]), killed_at(int(sys.argv[2]))).train()
