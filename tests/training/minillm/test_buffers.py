"""Which prompts, minibatches and documents a buffer has."""

from dataclasses import replace

import pytest
from gistserve.training.config import ConfigError
from gistserve.training.minillm.buffers import BufferPlan
from hypothesis import given
from hypothesis import strategies as st

plans = st.builds(
    lambda prompts, minibatches, part, epochs, seed, accumulation, processes: BufferPlan(
        num_prompts=prompts,
        rollouts=minibatches * part * accumulation * processes,
        minibatch=part * accumulation * processes,
        inner_epochs=epochs,
        seed=seed,
        accumulation=accumulation,
        processes=processes,
    ),
    st.integers(1, 20),
    *(st.integers(1, 3) for _ in range(3)),
    st.integers(0, 5),
    *(st.integers(1, 3) for _ in range(2)),
)


def shares(plan: BufferPlan) -> list[BufferPlan]:
    return [replace(plan, process=process) for process in range(plan.processes)]


@given(plans, st.integers(0, 5))
def test_prompts_are_asked_in_turns(plan: BufferPlan, buffers: int) -> None:
    asked = [
        index for buffer in range(buffers) for own in shares(plan) for index in own.prompts(buffer)
    ]
    assert len(asked) == buffers * plan.rollouts
    for start in range(0, len(asked), plan.num_prompts):
        turn = asked[start : start + plan.num_prompts]
        assert len(set(turn)) == len(turn)
    one = replace(plan, processes=1, accumulation=1)
    assert asked == [index for buffer in range(buffers) for index in one.prompts(buffer)]


@given(plans, st.integers(0, 5))
def test_an_inner_epoch_learns_every_rollout_once(plan: BufferPlan, buffer: int) -> None:
    own = plan.rollouts // plan.processes
    steps = list(plan.minibatches(buffer))
    assert len(steps) == plan.steps == plan.rollouts // plan.minibatch * plan.inner_epochs
    assert all(len(parts) == plan.accumulation for parts in steps)
    per_epoch = len(steps) // plan.inner_epochs
    for start in range(0, len(steps), per_epoch):
        rows = [row for parts in steps[start : start + per_epoch] for part in parts for row in part]
        assert sorted(rows) == list(range(own))
    assert steps == list(plan.minibatches(buffer))


def test_order_and_seeds_change() -> None:
    plan = BufferPlan(num_prompts=50, rollouts=32, minibatch=8, inner_epochs=2, seed=0)
    other = replace(plan, seed=1)
    assert plan.prompts(0) != plan.prompts(1)
    assert plan.prompts(0) != other.prompts(0)
    first, second = list(plan.minibatches(0))[:4], list(plan.minibatches(0))[4:]
    assert first != second
    both = [replace(plan, processes=2, process=process) for process in range(2)]
    seeds = {p.sampling_seed(b) for p in (other, *both) for b in range(3)}
    assert len(seeds) == 9


@given(plans, st.integers(0, 20))
def test_documents_go_on_from_step_to_step(plan: BufferPlan, step: int) -> None:
    rows = [row for own in shares(plan) for part in own.documents(step) for row in part]
    assert rows == list(range(step * plan.minibatch, (step + 1) * plan.minibatch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prompts": 0}, "no prompt"),
        ({"rollouts": 12}, r"rollouts must be a multiple of minibatch \(8\), got 12"),
        ({"processes": 3}, "minibatch of 8 cannot be shared by 3"),
        ({"accumulation": 3}, "gradient_accumulation_steps 3 parts: make it a multiple of 3"),
    ],
)
def test_what_does_not_divide(settings: dict[str, int], message: str) -> None:
    plan = {"num_prompts": 5, "rollouts": 16, "minibatch": 8, "inner_epochs": 1, "seed": 0}
    with pytest.raises(ConfigError, match=message):
        BufferPlan(**(plan | settings))
