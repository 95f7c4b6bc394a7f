from pathlib import Path

import pytest
from gistserve.server.commands.model_source import parse_source


def test_a_folder_is_served_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    source = parse_source(str(folder))
    assert (source.name, source.location) == ("my-model", str(folder))


def test_a_hub_name_keeps_its_owner() -> None:
    source = parse_source("Qwen/Qwen3-0.6B")
    assert (source.name, source.location) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")


def test_a_name_can_be_chosen(tmp_path: Path) -> None:
    assert parse_source(f"mine={tmp_path}").name == "mine"
    assert parse_source("mine=Qwen/Qwen3-0.6B").location == "Qwen/Qwen3-0.6B"


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    assert parse_source(str(folder)).location == str(folder)


@pytest.mark.parametrize("text", ["", "=path", "name=", "./missing", "/no/such/folder", "n=~/no-x"])
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no model|does not exist"):
        parse_source(text)


def test_the_adapter_in_a_models_own_folder_is_found(tmp_path: Path) -> None:
    assert parse_source(str(tmp_path)).own_adapter is None
    (tmp_path / "gist_adapter").mkdir()
    assert parse_source(str(tmp_path)).own_adapter == tmp_path / "gist_adapter"
