"""ByteBudget against a list that is searched through."""

from itertools import combinations

import pytest
from gistserve.server.api.byte_budget import ByteBudget
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

LIMIT = 10
keys = st.integers(0, 5)


class BudgetAgainstList(RuleBasedStateMachine):
    """Random uses; the list holds (key, bytes), the one used last at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.budget: ByteBudget[int] = ByteBudget(LIMIT)
        self.model: list[tuple[int, int]] = []

    def room(self) -> int:
        return LIMIT - sum(size for _, size in self.model)

    @rule(key=keys, size=st.integers(0, 12))
    def add(self, key, size):
        if key in dict(self.model) or size > self.room():
            with pytest.raises(ValueError):
                self.budget.add(key, size)
        else:
            self.budget.add(key, size)
            self.model.append((key, size))

    @rule(key=keys)
    def touch(self, key):
        self.budget.touch(key)
        self.model.sort(key=lambda item: item[0] == key)

    @rule(key=keys)
    def discard(self, key):
        self.budget.discard(key)
        self.model = [item for item in self.model if item[0] != key]

    @rule(size=st.integers(0, 12), busy=st.sets(keys))
    def make_room(self, size, busy):
        """As the tiers do: what is in the way goes, and then the new key fits."""
        if size > LIMIT:
            with pytest.raises(ValueError, match="whole budget"):
                self.budget.victims(size, busy.__contains__)
            return
        chosen = self.budget.victims(size, busy.__contains__)
        idle = [key for key, _ in self.model if key not in busy]
        order = idle + [key for key, _ in self.model if key in busy]
        assert chosen == order[: len(chosen)]
        sizes = dict(self.model)
        assert sum(sizes[key] for key in chosen) >= size - self.room()
        if chosen:  # one fewer would not do
            assert sum(sizes[key] for key in chosen[:-1]) < size - self.room()
        for key in chosen:
            self.discard(key)
        assert size <= self.room()

    @invariant()
    def agree(self):
        assert list(self.budget) == [key for key, _ in self.model]
        assert self.budget.used == LIMIT - self.room() <= LIMIT


TestBudgetAgainstList = BudgetAgainstList.TestCase
TestBudgetAgainstList.settings = settings(max_examples=60, stateful_step_count=25)


def test_idle_keys_alone_make_room_wherever_they_can():
    """Over every busy set: a busy key goes only if all idle ones together are not enough."""
    sizes = {0: 3, 1: 1, 2: 4, 3: 2}
    for count in range(5):
        for busy in combinations(sizes, count):
            budget: ByteBudget[int] = ByteBudget(sum(sizes.values()))
            for key, size in sizes.items():
                budget.add(key, size)
            for wanted in range(1, budget.limit + 1):
                chosen = budget.victims(wanted, busy.__contains__)
                idle_bytes = sum(size for key, size in sizes.items() if key not in busy)
                assert any(key in busy for key in chosen) == (wanted > idle_bytes)
