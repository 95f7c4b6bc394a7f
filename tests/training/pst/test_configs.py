"""The configurations that are shipped."""

from importlib.resources import files

import pytest
from gistserve.training.config import load_config
from gistserve.training.continual.config import ContinualConfig
from gistserve.training.pst.config import PSTConfig

CONFIGS = sorted(
    path for path in files("gistserve.training.pst").joinpath("configs").iterdir()
    if path.name.endswith(".yaml")
)  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_they_are_valid(path) -> None:  # type: ignore[no-untyped-def]
    if path.name.startswith("base_"):
        assert load_config(path, ContinualConfig).new_model
    else:
        config = load_config(path, PSTConfig)
        assert config.method == "pst"
        assert config.sparsity == 0.9
