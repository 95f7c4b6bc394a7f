"""The model as it is written: measured once more, then packed, with manifest and card."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...compress.sparse import SparseRecipe, save_sparse
from ...compress.sparse.pattern import Pattern
from ..text_ids import PROMPT
from .card import model_card
from .config import PSTConfig
from .pruner import Pruner
from .task import TaskData

_NAMES = {
    "pst": "PST (arXiv 2205.11005)",
    "movement": "movement pruning (arXiv 2005.07683)",
    "magnitude": "gradual magnitude pruning",
    "dense": "fine-tuning",
}


def write_artifact(
    pruner: Pruner,
    data: TaskData,
    config: PSTConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    facts: dict[str, Any],
) -> None:
    """Merge the masks into the model, measure it, and write it with `results.json` beside it."""
    facts = facts | {"pattern": config.pattern, "sparsity": pruner.sparsity()}
    masks = pruner.merge()
    model = pruner.model
    model.to(getattr(torch, config.dtype))
    facts["measures"] = {"validation": data.measure_validation(model, generate=True)}
    if config.test_data is not None:
        facts["measures"]["test"] = data.measure_test(model)
    if config.task == "causal":
        facts["prompt"] = PROMPT.format("<input>")
    model.config.use_cache = True
    _write_model(model, masks, config, tokenizer, folder, facts)
    (folder / "README.md").write_text(model_card(config, facts), encoding="utf-8")
    results = {"config": asdict(config)} | facts
    text = json.dumps(results, indent=2) + "\n"
    (folder.parent / "results.json").write_text(text, encoding="utf-8")


def _write_model(
    model: PreTrainedModel,
    masks: dict[str, Any],
    config: PSTConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    facts: dict[str, Any],
) -> None:
    if not masks:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return
    recipe = SparseRecipe(
        method=_NAMES[config.method],
        modules=tuple(masks),
        sparsity=config.sparsity,
        pattern=Pattern(config.pattern),
    )
    manifest = {"base_model": config.model, "training": facts}
    save_sparse(model, folder, recipe, masks=masks, tokenizer=tokenizer, manifest=manifest)
