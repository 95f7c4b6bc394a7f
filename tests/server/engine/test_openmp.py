"""Whoever has loaded a model keeps no OpenMP helpers while an engine runs it."""

import pytest
import torch
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine import Engine
from gistserve.server.engine.openmp import release_helpers

from ...families import tiny_model
from ...openmp_helpers import helpers_left_by, needs_openmp


def start_an_engine():
    engine = Engine(tiny_model("llama"), EngineConfig(num_blocks=8))
    engine.start()
    engine.shutdown()


@needs_openmp
@pytest.mark.parametrize("work", [release_helpers, start_an_engine])
def test_helpers_end(work):
    assert helpers_left_by(work) == set()


def test_loops_go_on_afterwards():
    release_helpers()
    assert torch.ones(2**20).sum() == 2**20
    release_helpers()
