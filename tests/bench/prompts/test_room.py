"""Slots, blocks and bytes, against sets of slots counted one by one."""

import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.prompts.room import Room
from hypothesis import given
from hypothesis import strategies as st

SMALL = st.integers(1, 40)


def room(block_size: int = 16, num_blocks: int = 100, slot_bytes: int = 8) -> Room:
    return Room(num_blocks, block_size, slot_bytes, max_model_len=1024)


@given(SMALL, SMALL, SMALL, st.integers(0, 10**6))
def test_as_many_prompts_fit_as_whole_blocks_allow(
    block_size: int, slots: int, slot_bytes: int, budget: int
) -> None:
    found = room(block_size, slot_bytes=slot_bytes)
    blocks = {slot // block_size for slot in range(slots)}
    kept = len(blocks) * block_size * slot_bytes
    assert found.kept_bytes(slots) == kept
    fit = found.prompts_in(budget, slots)
    assert fit * kept <= budget < (fit + 1) * kept


@given(SMALL, st.integers(0, 40), st.integers(0, 5), SMALL, st.integers(1, 5))
def test_a_load_takes_the_prompts_blocks_and_each_requests_own(
    block_size: int, pinned: int, prompts: int, own: int, concurrency: int
) -> None:
    kept = prompts * len({slot // block_size for slot in range(pinned)})
    mine = 0
    for _ in range(concurrency):
        blocks = {slot // block_size for slot in range(pinned + own)}
        shared = {slot // block_size for slot in range(pinned) if (slot + 1) % block_size == 0}
        mine += len(blocks - shared) + 1
    assert room(block_size).blocks_of_load(pinned, prompts, own, concurrency) == kept + mine


def test_what_does_not_fit_is_told_in_slots_and_bytes() -> None:
    assert room().lack(100) is None
    reason = Room(100, 16, 2**20, 1024).lack(101)
    assert reason is not None
    assert "needs 1,616 slots (1.58 GiB)" in reason
    assert "which has 1,600 (1.56 GiB)" in reason


def test_it_is_read_from_the_server() -> None:
    told = {
        "name": "model",
        "num_blocks": 7,
        "block_size": 16,
        "kv_bytes_per_token": 64,
        "max_model_len": 99,
    }
    assert Room.of({"models": [{"name": "other"}, told]}, "model") == Room(7, 16, 64, 99)
    with pytest.raises(LoadError, match="tells nothing of model"):
        Room.of(None, "model")
