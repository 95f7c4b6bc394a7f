"""YAML to dataclass: what is accepted, and what the errors say."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from gistserve.training.config import ConfigError, from_mapping, load_config
from gistserve.training.gist.config import GistTrainingConfig


@dataclass
class Inner:
    depth: int = 1


@dataclass
class Settings:
    name: str
    rate: float = 0.1
    steps: int | None = None
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    targets: list[str] | str = "all"
    where: Path | None = None
    inner: Inner = field(default_factory=Inner)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be at least 0, got {self.rate}")


def test_all_kinds_of_values(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "name: x\nrate: 2e-5\nsteps: null\nfast: true\nkind: b\ntargets: [q, k]\n"
        "where: some/file\ninner: {depth: 3}\nextra: {any: thing}\n"
    )
    assert load_config(path, Settings) == Settings(
        name="x",
        rate=2e-5,
        fast=True,
        kind="b",
        targets=["q", "k"],
        where=Path("some/file"),
        inner=Inner(3),
        extra={"any": "thing"},
    )
    assert isinstance(from_mapping(Settings, {"name": "x", "rate": 1}).rate, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "the field name is missing"),
        ({"name": "x", "rat": 1}, "unknown field 'rat'; did you mean rate"),
        ({"name": "x", "zzz": 1}, "unknown field 'zzz'; known: name"),
        ({"name": 3}, r"name must be text, got 3 \(int\)"),
        ({"name": None}, "name must be text, got nothing"),
        ({"name": "x", "rate": "quick"}, "rate must be a number, got 'quick'"),
        ({"name": "x", "rate": True}, "rate must be a number"),
        ({"name": "x", "steps": 1.5}, "steps must be an integer or null, got 1.5"),
        ({"name": "x", "steps": True}, "steps must be an integer or null"),
        ({"name": "x", "fast": 1}, "fast must be true or false"),
        ({"name": "x", "kind": "c"}, "kind must be 'a' or 'b', got 'c'"),
        ({"name": "x", "targets": [1]}, "targets must be a list or text"),
        ({"name": "x", "inner": {"dpth": 2}}, "unknown field 'dpth'; did you mean depth"),
        ({"name": "x", "rate": -1}, "rate must be at least 0, got -1"),
        ([1], "expected a mapping of settings"),
    ],
)
def test_errors_name_field_and_value(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Settings, data)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    with pytest.raises(ConfigError, match=r"settings\.yaml cannot be read"):
        load_config(path, Settings)
    path.write_text("name: [unclosed")
    with pytest.raises(ConfigError, match=r"settings\.yaml is not valid YAML"):
        load_config(path, Settings)
    path.write_text("")
    with pytest.raises(ConfigError, match=r"settings\.yaml: expected a mapping.*nothing"):
        load_config(path, Settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gist_tokens": 0}, "num_gist_tokens must be at least 1, got 0"),
        ({"form": "masked", "dtype": "bfloat16"}, "loses small updates"),
        ({"condition": "positive"}, "needs form: masked"),
        ({"attn_implementation": "flex_attention"}, "two_pass has none"),
        ({"lm_weight": 0, "distill_weight": 0}, "nothing would be learned"),
        ({"max_steps": 0, "num_train_epochs": 0}, "one of max_steps and num_train_epochs"),
        ({"learning_rate": 0}, "learning_rate must be > 0"),
        ({"turns": "both"}, "turns must be 'independent' or 'shared'"),
        ({"batchsize": 2}, "did you mean batch_size"),
    ],
)
def test_gist_settings_that_make_no_sense(changes: dict, message: str) -> None:
    needed = {"model": "m", "train_data": "t", "output_dir": "o"}
    with pytest.raises(ConfigError, match=message):
        from_mapping(GistTrainingConfig, needed | changes)


def test_gist_defaults_follow_the_form() -> None:
    needed = {"model": "m", "train_data": "t", "output_dir": "o"}
    ours = from_mapping(GistTrainingConfig, needed)
    paper = from_mapping(GistTrainingConfig, needed | {"form": "masked"})
    assert (ours.sink, ours.peak_learning_rate) == (1, 5e-4)
    assert (paper.sink, paper.peak_learning_rate) == (0, 2e-5)
    assert from_mapping(GistTrainingConfig, needed | {"sink_tokens": 0}).sink == 0


RECIPES = sorted((Path(__file__).parents[2] / "training/gist/recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    config = load_config(path, GistTrainingConfig)
    if path.stem.startswith("paper"):
        assert (config.form, config.sink, config.max_steps) == ("masked", 0, 3000)
        assert config.batch_size * config.gradient_accumulation_steps * 4 == 128


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} == {"two_pass", "paper_llama_7b"}
