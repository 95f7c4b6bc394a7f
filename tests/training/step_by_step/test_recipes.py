"""The configurations that are shipped."""

from importlib.resources import files

import pytest
from gistserve.training.config import load_config
from gistserve.training.continual.config import ContinualConfig
from gistserve.training.step_by_step.config import StepByStepConfig

RECIPES = sorted(
    path for path in files("gistserve.training.step_by_step").joinpath("recipes").iterdir()
    if path.name.endswith(".yaml")
)  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_they_are_valid(path) -> None:  # type: ignore[no-untyped-def]
    if path.name.startswith("base_"):
        assert load_config(path, ContinualConfig).new_model
        return
    config = load_config(path, StepByStepConfig)
    assert config.method == "step_by_step"
    if path.name.startswith("t5_"):  # the paper's, section 4 and appendix A
        assert (config.learning_rate, config.batch_size, config.max_steps) == (5e-5, 64, 10_000)
        assert (config.max_input_tokens, config.max_target_tokens) == (1024, 256)
