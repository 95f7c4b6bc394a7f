"""Minillm's second phase: the student learns from the responses it writes itself."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..accelerate_checkpoints import saved_checkpoints
from ..best import BestState
from ..checkpoints import CHECKPOINTS
from .config import MiniLLMConfig
from .data import Pair, distinct_prompts
from .evaluation import Measures
from .fine_tuning import BEST
from .language import LanguageRows, language_rows
from .models import Models
from .policy_trainer import MiniLLMTrainer
from .rollouts import ModelPair
from .split_model import SplitModel


def learn_on_policy(
    config: MiniLLMConfig,
    models: Models,
    train: Sequence[Pair],
    folder: Path,
    validate: Callable[[], Measures],
    score: Callable[[Measures], float],
) -> dict[str, Any]:
    """Train on the prompts of `train`, put the best state into the student, return what happened.

    validate: measures the student as it is. score: of these, what the best state has most of; the
    student as it comes in is among the candidates. Goes on from the newest checkpoint under
    `folder`. The facts are those of `fine_tuning.fine_tune`.
    """
    assert models.teacher is not None
    accelerator = Accelerator(
        cpu=config.device == "cpu", mixed_precision="bf16" if config.bf16 else "no"
    )
    best = BestState(folder / CHECKPOINTS / BEST)

    def evaluate(step: int) -> Measures:
        measures = validate()
        if accelerator.is_main_process:
            best.offer(models.student, score(measures), step, measures)
        return measures

    trainer = MiniLLMTrainer(
        config,
        accelerator,
        ModelPair(SplitModel(models.student), SplitModel(models.teacher)),
        distinct_prompts(train),
        end_ids=models.end_ids,
        pad_id=models.pad_id,
        folder=folder,
        evaluate=evaluate,
        language_rows=_language_rows(config, models),
    )
    saved = saved_checkpoints(folder / CHECKPOINTS)
    progress = trainer.train(saved[-1] if saved else None)
    accelerator.wait_for_everyone()
    best.load(models.student)
    kept = best.facts()
    return {
        "steps": progress.step,
        "kept_step": kept["step"],
        "training_seconds": progress.seconds,
        "validation": kept["validation"],
    }


def _language_rows(config: MiniLLMConfig, models: Models) -> LanguageRows | None:
    if config.lm_data is None:
        return None
    length = config.max_prompt_tokens + config.max_new_tokens
    return language_rows(config.lm_data, models.tokenizer, length, config.seed)
