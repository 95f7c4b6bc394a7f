"""What the machine reaches, measured beside an engine."""

import torch
from gistserve.bench.engine.machine import Machine

from ...openmp_helpers import helpers_left_by, needs_openmp


@needs_openmp
def test_the_measurement_leaves_no_helpers() -> None:
    machine = Machine(torch.device("cpu"), torch.float32, num_bytes=2**22, size=64)
    assert helpers_left_by(machine.ceilings) == set()
