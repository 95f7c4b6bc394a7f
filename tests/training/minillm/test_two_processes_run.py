"""Both phases of a run in two processes, as the command starts them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from gistserve.training.minillm.data import read_pairs
from gistserve.training.minillm.evaluation import Evaluation
from gistserve.training.minillm.models import load_models
from gistserve.training.minillm.template import PromptTemplate
from safetensors.torch import load_file

from ..process_group import run_two
from .tiny_run import make_folder, settings

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    config = settings(
        folder, tmp_path / "run", sft_epochs=2, sft_batch_size=3, max_steps=4, eval_steps=4
    )
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(asdict(config)))
    run_two("train", "minillm", "--config", str(path))
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert found["warm_start"]["steps"] == 2 * 12 / (2 * 3)  # both take a batch of each step
    assert found["steps"] == 4
    models = load_models(settings(folder, tmp_path, model=str(tmp_path / "run/model")))
    template = PromptTemplate("plain", models.tokenizer)
    pairs = read_pairs(config.train_data, config, template)
    measured = Evaluation(models, template, config).loss(pairs)
    assert found["measures"]["validation"]["loss"] == pytest.approx(measured["loss"], abs=1e-5)
    given = load_file(folder / "student/model.safetensors")
    written = load_file(tmp_path / "run/model/model.safetensors")
    assert any((written[name] - given[name]).abs().max() > 1e-2 for name in given)
