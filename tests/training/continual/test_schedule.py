"""Schedules: end points, continuity, phases, and that any step can be resumed at."""

import math
from dataclasses import replace

import pytest
from gistserve.training.config import ConfigError
from gistserve.training.continual.config import ContinualConfig
from gistserve.training.continual.schedule import (
    ConstantSchedule,
    CosineSchedule,
    InfiniteSchedule,
    Schedule,
)
from gistserve.training.continual.source import Source
from gistserve.training.continual.stage_schedule import make_schedule, pre_anneal_step
from hypothesis import given, settings
from hypothesis import strategies as st

PAPER = InfiniteSchedule(
    total=1000,
    warmup=10,
    cooldown_end=600,
    anneal_start=900,
    peak=3e-4,
    plateau=1.65e-4,
    floor=3e-5,
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    total = draw(st.integers(10, 5000))
    floor, plateau, peak = sorted(draw(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3)))
    warmup, cooldown_end, anneal_start = sorted(
        draw(st.lists(st.integers(0, total), min_size=3, max_size=3))
    )
    shape = draw(st.sampled_from(["cosine", "inverse_sqrt"]))
    phases = (total, warmup, cooldown_end, anneal_start)
    choices: list[Schedule] = [
        CosineSchedule(total, warmup, peak, floor),
        ConstantSchedule(total, warmup, peak),
        InfiniteSchedule(*phases, peak, plateau, floor, shape),
    ]
    return draw(st.sampled_from(choices))


@settings(max_examples=200, deadline=None)
@given(schedules(), st.floats(0, 1))
def test_rates_stay_between_zero_and_the_peak_and_do_not_jump(
    schedule: Schedule, place: float
) -> None:
    assert isinstance(schedule, CosineSchedule | ConstantSchedule | InfiniteSchedule)
    total, step = schedule.total, place * schedule.total
    rate = schedule.rate(step)
    assert 0 <= rate <= schedule.peak * (1 + 1e-12)
    ends = {schedule.warmup, getattr(schedule, "cooldown_end", 0), 0, total}
    ends.add(getattr(schedule, "anneal_start", total))
    shortest = min(b - a for a, b in zip(sorted(ends), sorted(ends)[1:], strict=False))
    tiny = 1e-6
    steepest = schedule.peak * 40 / max(1, shortest)  # h'(0)/h(1) is 7.2, ln(peak/floor) below 14
    if not any(abs(step - end) < 1 for end in ends if _jumps_at(schedule, end)):
        assert abs(schedule.rate(step + tiny) - rate) <= steepest * tiny + 1e-15


def _jumps_at(schedule: Schedule, end: int) -> bool:
    """A phase of no steps is left out, and the rate may jump where it would have been."""
    if isinstance(schedule, CosineSchedule):
        return schedule.warmup == schedule.total and end == schedule.total
    if isinstance(schedule, InfiniteSchedule):
        return (schedule.warmup == schedule.cooldown_end and end == schedule.warmup) or (
            schedule.anneal_start == schedule.total and end == schedule.total
        )
    return False


def test_cosine_end_points() -> None:
    schedule = CosineSchedule(total=1000, warmup=10, peak=3e-4, floor=3e-5)
    assert schedule.rate(0) == 0
    assert schedule.rate(1) == pytest.approx(3e-5)
    assert schedule.rate(10) == pytest.approx(3e-4)
    assert schedule.rate(505) == pytest.approx((3e-4 + 3e-5) / 2)
    assert schedule.rate(1000) == pytest.approx(3e-5)
    assert schedule.rate(1200) == pytest.approx(3e-5)
    rates = [schedule.rate(step) for step in range(10, 1001)]
    assert rates == sorted(rates, reverse=True)


def test_constant_warms_and_stays() -> None:
    schedule = ConstantSchedule(total=100, warmup=4, peak=0.1)
    assert [schedule.rate(step) for step in (0, 2, 4, 50, 100)] == [0, 0.05, 0.1, 0.1, 0.1]
    assert ConstantSchedule(total=100, warmup=0, peak=0.1).rate(1) == 0.1


@pytest.mark.parametrize("shape", ["cosine", "inverse_sqrt"])
def test_infinite_end_points(shape: str) -> None:
    schedule = replace(PAPER, shape=shape)
    assert schedule.rate(5) == pytest.approx(1.5e-4)
    assert schedule.rate(10) == pytest.approx(3e-4)
    assert schedule.rate(600) == schedule.rate(750) == schedule.rate(900) == 1.65e-4
    assert schedule.rate(599.999) == pytest.approx(1.65e-4, rel=1e-4)
    assert schedule.rate(950) == pytest.approx(math.sqrt(1.65e-4 * 3e-5))
    assert schedule.rate(1000) == pytest.approx(3e-5)


def test_infinite_cooldown_shapes() -> None:
    assert PAPER.rate(305) == pytest.approx((3e-4 + 1.65e-4) / 2)
    fast = replace(PAPER, shape="inverse_sqrt")
    expected = 3e-4 + (1.65e-4 - 3e-4) * (6**-0.5 - 1) / (11**-0.5 - 1)
    assert fast.rate(305) == pytest.approx(expected)
    assert fast.rate(305) < PAPER.rate(305)


@pytest.mark.parametrize("resumed_at", [3, 10, 300, 600, 750, 900, 950, 999])
def test_a_schedule_is_resumed_in_any_phase(resumed_at: int) -> None:
    """The rates after a resumption are those of the whole run: nothing but the step counts."""
    whole = [PAPER.rate(step) for step in range(1, 1001)]
    again = InfiniteSchedule(**vars(PAPER))
    assert [again.rate(step) for step in range(resumed_at + 1, 1001)] == whole[resumed_at:]


def config(**changes) -> ContinualConfig:
    return ContinualConfig(output_dir="o", new=[Source(name="a", path="a")], **changes)


def test_the_next_stage_goes_on_at_the_plateau() -> None:
    settings = config(schedule="infinite", learning_rate=3e-4, anneal=0.1, min_learning_rate=3e-5)
    first = make_schedule(settings, 1000)
    assert isinstance(first, InfiniteSchedule)
    assert pre_anneal_step(first) == 900
    following = make_schedule(settings, 500, earlier_plateau=first.plateau)
    assert first.rate(900) == following.rate(0) == following.rate(1) == pytest.approx(1.65e-4)
    assert max(following.rate(step) for step in range(501)) == first.plateau
    assert following.rate(500) == pytest.approx(3e-5)
    assert pre_anneal_step(following) == 450


def test_a_plateau_other_than_the_stages_before_is_refused() -> None:
    settings = config(schedule="infinite", constant_learning_rate=1e-4)
    assert make_schedule(settings, 100).rate(80) == 1e-4
    with pytest.raises(ConfigError, match=r"is 0\.0001, but the stage before stands at 0\.0002"):
        make_schedule(settings, 100, earlier_plateau=2e-4)


def test_shares_and_steps_of_phases() -> None:
    by_share = make_schedule(config(schedule="infinite", warmup=0.02), 200)
    by_steps = make_schedule(
        config(schedule="infinite", warmup=4, cooldown_end=120, anneal=20), 200
    )
    assert by_share == by_steps
    assert pre_anneal_step(make_schedule(config(schedule="infinite", anneal=0), 200)) is None
    assert pre_anneal_step(make_schedule(config(), 200)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "infinite", "anneal": 0.5}, "cooldown_end ends at step 60, after"),
        ({"schedule": "infinite", "anneal": 100}, "leaves nothing of 100 steps"),
        ({"warmup": 200}, "warmup ends at step 200, after total at step 100"),
        ({"learning_rate": 0.0}, "learning rates must be above 0"),
        ({"min_learning_rate": 1.0}, "must be above 0 and not fall"),
        ({"schedule": "infinite", "constant_learning_rate": 1.0}, "not fall from minimum"),
    ],
)
def test_phases_and_rates_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_schedule(config(**changes), 100)
