"""Time is shared out once, and nobody takes from those who come later."""

from gistserve.bench.gpu.budget import Budget, Deadline

from .samples import FakeClock


def test_shares_scale_to_the_limit_and_leftovers_pass_on() -> None:
    clock = FakeClock()
    budget = Budget(60, {"a": 1, "b": 2, "c": 3}, clock)
    clock.now += 4  # of a's 10
    assert not budget.deadline("a").reached
    assert budget.deadline("b").seconds_left == 26
    clock.now += 30
    assert budget.deadline("b").reached and budget.deadline("b").seconds_left == 0
    assert budget.deadline("c").seconds_left == 26


def test_a_deadline_of_seconds_from_now() -> None:
    clock = FakeClock()
    deadline = Deadline.after(3, clock)
    clock.now += 2
    assert (deadline.seconds_left, deadline.reached) == (1, False)
    clock.now += 1
    assert deadline.reached
