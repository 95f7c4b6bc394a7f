"""How far a gist moves the distributions of the next token, over the whole vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ...compress.adapter import GistAdapter
from ...server.engine.loader import load_model
from ...training.gist.data import Limits, load_examples
from ...training.gist.evaluation import evaluate_gist
from .settings import PromptsSettings


def fidelity(settings: PromptsSettings, adapter_folder: Path) -> dict[str, Any]:
    """Measures of `evaluate_gist` by arm (`full`, `gist`, `none`) on the right answers.

    They need the distributions of all tokens, which no HTTP interface gives, and so are computed
    here, by the code that compresses prompts in the server too. The full prompt is what a
    full-prefix cache holds: its own divergence is 0. Raises what loading raises, and DataError for
    examples that do not fit the model.
    """
    server = settings.server
    device = None if server.device == "auto" else server.device
    model, tokenizer = load_model(server.model, torch.float32, device)
    adapter = GistAdapter.load(adapter_folder, model.device)
    limits = Limits(
        max_tokens=int(model.config.get_text_config().max_position_embeddings),
        gist_tokens=adapter.config.num_gist_tokens,
    )
    with TemporaryDirectory(prefix="gistserve-") as place:
        data = Path(place) / "labelled.jsonl"
        rows = [
            {"prompt": row.prompt, "input": row.input, "output": row.expected}
            for row in settings.labelled
        ]
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        examples = load_examples(data, tokenizer, limits)
    arms = evaluate_gist(
        model, tokenizer, adapter, examples, arms=("full", "gist", "none"), generate=False
    )
    return {str(arm): measures for arm, measures in arms.items()}
