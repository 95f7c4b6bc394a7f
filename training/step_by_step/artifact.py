"""The model as it is written: measured once more, with manifest and card."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...compress.sparse.output_folder import new_folder
from ..text_ids import PROMPT
from .card import model_card
from .config import StepByStepConfig
from .task_data import TaskData
from .tasks import question

MANIFEST = "manifest.json"


def write_artifact(
    model: PreTrainedModel,
    data: TaskData,
    config: StepByStepConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    facts: dict[str, Any],
) -> None:
    """Measure the model, and write it to `folder` with `results.json` beside it."""
    sets = {"validation": data.records.validation, "test": data.records.test}
    measures = {}
    for name, items in sets.items():
        if items:
            measures[name], _ = data.measure(model, items)
    measures["validation"]["loss"] = data.validation_loss(model)
    facts = facts | {
        "base_model": config.model,
        "prompt": _prompt(model, config),
        "data": _data_facts(data, config),
        "measures": measures,
    }
    _say_how_to_write(model, tokenizer)
    with new_folder(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        (new / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (new / "README.md").write_text(model_card(config, facts), encoding="utf-8")
    results = {"config": asdict(config)} | facts
    text = json.dumps(results, indent=2) + "\n"
    (folder.parent / "results.json").write_text(text, encoding="utf-8")


def _prompt(model: PreTrainedModel, config: StepByStepConfig) -> str:
    """What to give the model for an answer, with `<input>` in place of the input."""
    asked = question("<input>", config.method)
    return asked if model.config.is_encoder_decoder else PROMPT.format(asked)


def _data_facts(data: TaskData, config: StepByStepConfig) -> dict[str, Any]:
    facts: dict[str, Any] = data.records.counts(config) | {
        "train_data": Path(config.train_data).name,
        "fraction": config.fraction,
        "cut": data.encoder.cut,
    }
    if Path(config.train_data).is_file():
        digest = hashlib.sha256(Path(config.train_data).read_bytes()).hexdigest()
        facts["train_data_sha256"] = digest
    return facts


def _say_how_to_write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A server that reads the folder is to stop where training did, and to decode greedily."""
    settings = model.generation_config
    if settings is not None:
        settings.eos_token_id = tokenizer.eos_token_id
        settings.do_sample = False
        settings.temperature = settings.top_p = settings.top_k = None
    model.to(torch.float32)
