"""A served model is updated: it serves, its old gist adapter is refused, a new one fits."""

import json
from pathlib import Path

import pytest
from gistserve.bench.policy_quality import generate_all
from gistserve.compress.config import GistAdapterError
from gistserve.server.commands.model_loading import load_served_models
from gistserve.server.commands.model_options import ModelOptions
from gistserve.server.commands.model_source import ModelSource
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.request import Request
from gistserve.server.engine.sampling_params import SamplingParams
from gistserve.training.config import from_mapping
from gistserve.training.continual import train_continual
from gistserve.training.continual.config import ContinualConfig
from gistserve.training.gist import train_gist
from gistserve.training.gist.config import GistTrainingConfig

from ...chat_model import save_chat_model

pytest.importorskip("accelerate")


def updated(folder: Path, model: Path) -> Path:
    """The model after three steps on other text."""
    (folder / "new.txt").write_text("the colours of the hills in the evening " * 40)
    settings = {
        "output_dir": str(folder / "updated"),
        "start_from": str(model),
        "new": [{"name": "new", "path": str(folder / "new.txt")}],
        "sequence_length": 64,
        "batch_size": 2,
        "micro_batch_size": 2,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "token_cache": str(folder / "tokens"),
        "tensorboard": False,
        "plot": False,
        "progress": False,
        "device": "cpu",
    }
    return train_continual(from_mapping(ContinualConfig, settings))


def served(model: Path, *adapters: Path):
    options = ModelOptions(source=ModelSource(name=model.name, location=str(model)))
    (loaded,) = load_served_models([options], adapters, EngineConfig(), lambda step: None)
    return loaded


def test_an_updated_model_needs_a_new_adapter(tmp_path: Path) -> None:
    model = save_chat_model(tmp_path / "model")
    old_adapter = model / "gist_adapter"
    update = updated(tmp_path, model)

    loaded = served(update)
    loaded.engine.start()
    try:
        request = Request("r", [1, 40, 41], SamplingParams(max_tokens=4, temperature=0.0))
        assert len(generate_all(loaded.engine, [request])[0]) == 4
    finally:
        loaded.engine.shutdown()

    with pytest.raises(GistAdapterError) as refused:
        served(update, old_adapter)
    said = str(refused.value)
    assert "updated has another weights" in said
    assert "train an adapter on this one with gistserve train gist" in said
    assert f"--start-from {old_adapter}" in said

    data = tmp_path / "gist.jsonl"
    data.write_text(json.dumps({"prompt": "Say a.", "input": "now", "output": "a"}) + "\n")
    config = GistTrainingConfig(
        model=str(update),
        train_data=str(data),
        output_dir=str(tmp_path / "adapter"),
        num_gist_tokens=4,
        lora_rank=2,
        max_steps=1,
        device="cpu",
        tensorboard=False,
        trainer={"disable_tqdm": True},
    )
    new_adapter = train_gist(config, start_from=old_adapter)
    assert served(update, new_adapter).adapter is not None
