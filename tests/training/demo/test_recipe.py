"""The whole recipe in miniature: what it leaves behind is a model folder that can be served."""

from dataclasses import replace
from pathlib import Path

import pytest
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.fingerprint import differing_parts, model_fingerprint
from gistserve.server.engine.loader import load_model
from gistserve.training.demo import train_demo
from gistserve.training.demo.base import CURRICULUM, BaseConfig, Stage, lift_config
from gistserve.training.demo.policy import PolicyMix
from gistserve.training.demo.recipe import gist_config

TINY = BaseConfig(
    steps=2,
    policies=2,
    turns=2,
    hidden_size=32,
    layers=3,
    heads=2,
    head_dim=16,
    intermediate_size=48,
    curriculum=(Stage(PolicyMix(1, 2), exact_match=2.0),),
)


def test_recipe_makes_a_servable_folder(tmp_path: Path) -> None:
    from gistserve.training.demo.recipe import train_demo as run

    gist = replace(gist_config(tmp_path, 0), max_steps=2, batch_size=2, tensorboard=False)
    lift = replace(TINY, seed=1, upper_share=0.5, upper_layers=1)
    folder = run(tmp_path, base=TINY, lift=lift, gist=gist, policies=6)
    model, tokenizer = load_model(folder)
    adapter = GistAdapter.load(folder / "gist_adapter")
    adapter.check_model(model)
    fingerprint = model_fingerprint(model, tokenizer, source=folder)
    assert not differing_parts(adapter.config.base_fingerprint, fingerprint)
    assert adapter.config.metrics["full"]["kl_mean"] == pytest.approx(0, abs=1e-6)
    assert not list(folder.rglob("*.pt"))


def test_a_stage_without_its_forerunner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the stage 'tokenizer' first"):
        train_demo(tmp_path, stage="base")
    with pytest.raises(ValueError, match="run the stage 'base' first"):
        train_demo(tmp_path, stage="gist")
    with pytest.raises(ValueError, match="stage must be one of"):
        train_demo(tmp_path, stage="everything")


def test_the_second_run_hides_policies_from_the_lower_layers() -> None:
    config = lift_config(0)
    assert config.upper_share > 0 and config.upper_layers < config.layers
    assert config.curriculum == CURRICULUM[-1:]
