"""A step-by-step model behind the server: the trainer's answers and measures."""

import json
from pathlib import Path

import pytest
from gistserve.compress import weights_hash as weights_module
from gistserve.training.step_by_step import train_step_by_step
from gistserve.training.step_by_step.data import Fields, read_annotated
from gistserve.training.step_by_step.scores import score_answers

from ..over_http import completions
from .tiny_models import save_model, settings

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

TEST = "example:sums:test"


def test_it_answers_as_the_trainer_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "user_cache_path", lambda _: tmp_path / "cache")
    base = save_model("llama", tmp_path / "base")
    config = settings(
        base, tmp_path, test_data=TEST, max_steps=60, eval_steps=60, save_steps=60,
        learning_rate=1e-2, select_by="loss",
    )  # fmt: skip
    folder = train_step_by_step(config)
    manifest = json.loads((folder / "manifest.json").read_text())
    items = read_annotated(TEST, Fields())
    prompts = [manifest["prompt"].replace("<input>", item.source) for item in items]
    answers = completions(folder, tmp_path / "store", prompts, max_tokens=32)
    scores = score_answers(
        answers, [str(item.label) for item in items], [item.source for item in items], "equation"
    )
    measured = manifest["measures"]["test"]
    assert scores == pytest.approx(measured)
    assert measured["accuracy"] > 0.5
    assert len(set(answers)) > 10  # not one answer for all
