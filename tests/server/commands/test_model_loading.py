"""What a model's folder says about what it was made for."""

import json
import shutil
from pathlib import Path

import pytest
from gistserve.server.commands.model_loading import load_served_models
from gistserve.server.commands.model_options import ModelOptions
from gistserve.server.commands.model_source import parse_source
from gistserve.server.engine.config import EngineConfig

KIND = "sentence_transformers.models"


@pytest.fixture(scope="module")
def embedder(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder") / "model"
    shutil.copytree(chat_model, folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{KIND}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{KIND}.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    return folder


@pytest.mark.parametrize(
    ("embedding_folder", "flag", "pooling", "generates"),
    [
        (False, False, None, True),
        (False, True, "last", True),
        (True, False, "last", False),
        (True, True, "last", True),
    ],
)
def test_a_model_made_for_embeddings_answers_only_if_told_to(
    chat_model: Path,
    embedder: Path,
    embedding_folder: bool,
    flag: bool,
    pooling: str | None,
    generates: bool,
) -> None:
    options = ModelOptions(source=parse_source(str(embedder if embedding_folder else chat_model)))
    config = EngineConfig(device="cpu", max_num_seqs=2, kv_cache_memory=2**20)
    (model,) = load_served_models([options], [], config, lambda _: None, embeddings=flag)
    model.engine.shutdown()
    assert (model.pooling, model.generates) == (pooling, generates)
