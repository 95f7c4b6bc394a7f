"""Which students and teachers fit together."""

import logging
from pathlib import Path

import pytest
import torch
from gistserve.training.config import ConfigError
from gistserve.training.minillm.models import check_tokenizers, load_models

from .tiny_run import make_folder, make_tokenizer, save_model, settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models"))


def test_vocabularies_may_differ_by_padding(folder: Path) -> None:
    models = load_models(settings(folder, folder))
    assert models.teacher is not None
    assert models.teacher.config.vocab_size == models.student.config.vocab_size + 3
    assert models.student.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in models.teacher.parameters())
    assert models.end_ids == {1} and models.pad_id == 0


def test_a_served_student_stops_at_the_end_token_it_learns(folder: Path, tmp_path: Path) -> None:
    student = save_model(tmp_path / "student", 8)
    (student / "generation_config.json").write_text('{"eos_token_id": [5, 6], "top_k": 3}')
    models = load_models(settings(folder, folder, model=str(student)))
    assert models.student.generation_config.eos_token_id == 1
    assert models.student.generation_config.top_k != 3


def test_other_tokenizers_are_refused() -> None:
    ours = make_tokenizer()
    check_tokenizers(ours, make_tokenizer())
    words = sorted(ours.get_vocab(), key=ours.get_vocab().__getitem__)
    swapped = [*words[:-2], words[-1], words[-2]]
    with pytest.raises(ConfigError, match="differ in 2 of") as error:
        check_tokenizers(ours, make_tokenizer(swapped))
    assert repr(min(words[-2:])) in str(error.value)
    with pytest.raises(ConfigError, match="differ in 1 of"):
        check_tokenizers(ours, make_tokenizer([*words, "more"]))


def test_other_end_tokens_are_refused() -> None:
    other = make_tokenizer()
    other.eos_token = "<pad>"
    with pytest.raises(ConfigError, match="end their texts differently: '<end>' and '<pad>'"):
        check_tokenizers(make_tokenizer(), other)


def test_a_small_teacher_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_models(settings(folder, folder))
        assert "exchanged" not in caplog.text
        names = {"model": str(folder / "teacher"), "teacher": str(folder / "student")}
        load_models(settings(folder, folder, **names))
    assert "fewer parameters than the student" in caplog.text


@pytest.mark.parametrize("field", ["model", "teacher"])
def test_what_cannot_be_loaded_is_named(field: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"{field}: '.*nowhere'"):
        load_models(settings(folder, folder, **{field: str(folder / "nowhere")}))
