"""What sentence-transformers' files say about a model's embeddings."""

import json
from pathlib import Path
from typing import Any

import pytest
from gistserve.server.engine.errors import ModelLoadError
from gistserve.server.engine.pooling import LAST_TOKEN, pooling_of

MODULES = "sentence_transformers.models"
FLAGS = {"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True, "include_prompt": True}


def write(folder: Path, *kinds: str, pooling: Any = FLAGS) -> Path:
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"{MODULES}.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_last_token_as_qwen3_embedding_has_it(tmp_path: Path) -> None:
    assert pooling_of(write(tmp_path, "Transformer", "Pooling", "Normalize")) == LAST_TOKEN


def test_last_token_by_name_and_without_normalisation(tmp_path: Path) -> None:
    folder = write(tmp_path, "Transformer", "Pooling", pooling={"pooling_mode": "lasttoken"})
    assert pooling_of(folder) == LAST_TOKEN


@pytest.mark.parametrize(
    ("kinds", "pooling", "reason"),
    [
        (["Pooling", "Dense"], FLAGS, "the layers Dense"),
        (["Pooling"], {"pooling_mode_mean_tokens": True}, "pooling by mean_tokens"),
        (["Pooling"], {**FLAGS, "pooling_mode_cls_token": True}, "cls_token and lasttoken"),
        (["Pooling"], {}, "pooling by nothing"),
        (["Pooling"], [], "not describe"),
    ],
)
def test_what_is_not_done_is_described(
    tmp_path: Path, kinds: list[str], pooling: Any, reason: str
) -> None:
    assert reason in str(pooling_of(write(tmp_path, "Transformer", *kinds, pooling=pooling)))


def test_other_models_make_none(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) is None


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    for text in ("{", "[1]", '[{"type": "a.Pooling"}]'):
        (tmp_path / "modules.json").write_text(text)
        with pytest.raises(ModelLoadError, match=r"modules\.json"):
            pooling_of(tmp_path)
