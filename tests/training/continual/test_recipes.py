"""The configurations that are shipped as examples."""

from pathlib import Path

import pytest
from gistserve.training.config import load_config
from gistserve.training.continual.config import ContinualConfig
from gistserve.training.continual.model import count_parameters
from gistserve.training.continual.stage_schedule import make_schedule
from transformers import AutoConfig

FOLDER = Path(__file__).parents[3] / "training/continual/recipes"


@pytest.mark.parametrize("name", ["from_scratch", "update"])
def test_stages_are_valid(name: str) -> None:
    config = load_config(FOLDER / f"{name}.yaml", ContinualConfig)
    make_schedule(config, 1000)
    assert config.batch_size % config.micro_batch_size == 0
    if config.new_model is not None:
        sizes = AutoConfig.for_model(vocab_size=config.vocabulary_size, **config.new_model)
        assert 3e8 < count_parameters(sizes, config.objective) < 4e8


def test_accelerate_reads_its_file() -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    config = config_args.load_config_from_file(str(FOLDER / "fsdp.yaml"))
    assert config.distributed_type.name == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2


def test_there_are_no_others() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {"from_scratch", "update", "fsdp"}
