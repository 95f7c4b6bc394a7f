"""One measurement: checked before it is timed, and never in the way of the next."""

from pathlib import Path

import pytest
import torch
from gistserve.bench.gpu.bench import Bench, Prepared
from gistserve.bench.gpu.budget import Deadline
from gistserve.bench.gpu.device import BenchDevice
from gistserve.bench.gpu.journal import Journal

from .samples import FakeClock, FakeTimer

CASE = {"batch": 2}


class Setup:
    def __init__(self, folder: Path) -> None:
        self.clock, self.timer = FakeClock(), FakeTimer()
        self.path = folder / "journal.jsonl"

    def bench(self) -> Bench:
        journal = Journal(self.path, "part")
        return Bench(BenchDevice.dry_run(), self.timer, journal, Deadline(110, self.clock))

    def journal(self) -> Journal:
        return Journal(self.path, "part")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def right() -> Prepared:
    x = torch.randn(4, 4)
    return Prepared([lambda: x * 2], lambda: x.double() * 2)


def test_a_right_output_is_timed_and_recorded(setup: Setup) -> None:
    result = setup.bench().measure("ours", CASE, right, floor_bytes=8.0, method="events")
    assert (result.status, result.median_ms, result.method) == ("measured", 2.0, "events")
    assert result.error is not None and result.error < 1e-6
    assert setup.journal().measurements == [result]


@pytest.mark.parametrize("factor", [2.05, float("nan")])
def test_a_wrong_output_is_not_timed(setup: Setup, factor: float) -> None:
    x = torch.randn(4, 4)
    wrong = Prepared([lambda: x * factor], lambda: x.double() * 2)
    result = setup.bench().measure("ours", CASE, lambda: wrong)
    assert (result.status, result.samples_ms, setup.timer.methods) == ("wrong", [], [])
    assert "differs from float64" in result.note


def test_failures_are_results(setup: Setup) -> None:
    def no_memory() -> Prepared:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    def broken() -> Prepared:
        raise ValueError("no such shape\nand more")

    bench = setup.bench()
    assert bench.measure("ours", CASE, no_memory).note == "out of device memory"
    assert bench.measure("peer", CASE, broken).note == "ValueError: no such shape"
    assert bench.measure("other", CASE, right).status == "measured"
    assert [m.status for m in setup.journal().measurements] == ["failed", "failed", "measured"]


def test_nothing_is_begun_after_the_deadline(setup: Setup) -> None:
    setup.clock.now = 111
    result = setup.bench().measure("ours", CASE, pytest.fail)
    assert result.status == "not reached"


def test_results_of_an_earlier_process_are_kept(setup: Setup) -> None:
    first = setup.bench().measure("ours", CASE, right)
    assert setup.bench().measure("ours", CASE, pytest.fail) == first


def test_an_arm_that_crashed_twice_is_left_alone(setup: Setup) -> None:
    for batch in (1, 2):
        setup.journal().begin("ours", {"batch": batch})
        setup.journal().close("signal 6")
    result = setup.bench().measure("ours", {"batch": 3}, pytest.fail)
    assert (result.status, "crashed twice" in result.note) == ("failed", True)
    assert setup.bench().measure("peer", {"batch": 3}, right).status == "measured"


def test_inputs_rotate_over_twice_the_cache_as_far_as_memory_goes() -> None:
    device = BenchDevice(torch.device("cpu"), torch.bfloat16, l2_bytes=50, memory_bytes=1000)
    assert device.copies(10) == 11
    assert device.copies(0.5) == 64
    assert device.copies(400) == 2
    assert device.copies(5000) == 1
