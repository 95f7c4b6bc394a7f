"""The pool against a model of it: who holds what, and what can be found."""

from collections import Counter

import pytest
from gistserve.server.engine.block_pool import ROOT_HASH, BlockPool, hash_block
from gistserve.server.engine.errors import CacheFullError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

NUM_BLOCKS = 7


def chain(*names: int) -> list[bytes]:
    hashes = [ROOT_HASH]
    for name in names:
        hashes.append(hash_block(hashes[-1], [name]))
    return hashes[1:]


def test_blank_blocks_go_before_cached_ones_and_old_ones_before_new():
    pool = BlockPool(4)
    first, second, third = pool.allocate(3)
    for block, block_hash in zip((first, second), chain(1, 2), strict=True):
        pool.register(block, block_hash)
    pool.release([first])
    pool.release([second])
    pool.release([third])
    blank = set(pool.allocate(2))
    assert blank == {0, 1, 2, 3} - {first, second}
    assert pool.allocate(1) == [first]
    assert pool.match(chain(1, 2)) == []
    assert pool.allocate(1) == [second]
    pool.check()


def test_a_sequence_s_tail_is_evicted_before_its_head():
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    for block, block_hash in zip(blocks, chain(1, 2), strict=True):
        pool.register(block, block_hash)
    pool.release(blocks)
    assert pool.allocate(1) == [blocks[1]]
    assert pool.match(chain(1, 2)) == [blocks[0]]


def test_use_makes_a_cached_block_recent():
    pool = BlockPool(2)
    old, new = pool.allocate(2)
    pool.register(old, chain(1)[0])
    pool.register(new, chain(2)[0])
    pool.release([old])
    pool.release([new])
    pool.retain([old])
    pool.release([old])
    assert pool.allocate(1) == [new]


def test_allocation_is_all_or_nothing():
    pool = BlockPool(3)
    pool.allocate(1)
    with pytest.raises(CacheFullError, match="3 blocks are needed, 2 are free"):
        pool.allocate(3)
    assert pool.num_free == 2


def test_misuse_is_caught():
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.register(block, chain(1)[0])
    with pytest.raises(RuntimeError, match="registered already"):
        pool.register(block, chain(2)[0])
    pool.release([block])
    with pytest.raises(RuntimeError, match="more often than retained"):
        pool.release([block])
    with pytest.raises(RuntimeError, match="blank"):
        pool.retain([1 - block])
    with pytest.raises(RuntimeError, match="not in use"):
        pool.register(1 - block, chain(2)[0])


def test_hash_depends_on_everything_before_and_on_where_tokens_end():
    assert hash_block(ROOT_HASH, [1, 2]) != hash_block(ROOT_HASH, [2, 1])
    assert hash_block(ROOT_HASH, [1, 2]) != hash_block(chain(9)[0], [1, 2])
    # Fixed width: 1, 2 and 258 must not share bytes.
    assert len({hash_block(ROOT_HASH, t) for t in ([1, 1], [257], [1], [0, 257], [1, 0])}) == 5
    assert len(hash_block(ROOT_HASH, [1])) == 32


class PoolMachine(RuleBasedStateMachine):
    """Holders take, share, register and drop blocks; a Counter says what the pool must say."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.holders: list[list[int]] = []
        self.content: dict[int, bytes] = {}  # what each block was registered with last

    @property
    def held(self) -> Counter:
        return Counter(block for holder in self.holders for block in holder)

    @rule(count=st.integers(1, NUM_BLOCKS))
    def allocate(self, count):
        held = self.held
        if count > NUM_BLOCKS - len(held):
            with pytest.raises(CacheFullError):
                self.pool.allocate(count)
            return
        taken = self.pool.allocate(count)
        assert len(set(taken)) == count and not set(taken) & set(held)
        for block in taken:
            self.content.pop(block, None)
        self.holders.append(taken)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data):
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(holder)
        for block in holder:
            if not self.held[block] and not self.pool.is_registered(block):
                self.content.pop(block, None)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), name=st.integers(0, 4))
    def register(self, data, name):
        holder = data.draw(st.sampled_from(self.holders))
        block = data.draw(st.sampled_from(holder))
        if self.pool.is_registered(block):
            return
        block_hash = chain(name)[0]
        known = block_hash in self.content.values()
        self.pool.register(block, block_hash)
        assert self.pool.is_registered(block) is not known
        if not known:
            self.content[block] = block_hash

    @rule(block_ids=st.lists(st.integers(0, NUM_BLOCKS - 1), max_size=3))
    def forget(self, block_ids):
        self.pool.forget(block_ids)
        for block in block_ids:
            self.content.pop(block, None)

    @rule(name=st.integers(0, 4))
    def share(self, name):
        found = self.pool.match(chain(name))
        expected = [b for b, h in self.content.items() if h == chain(name)[0]]
        assert found == expected
        if found:
            self.pool.retain(found)
            self.holders.append(found)

    @invariant()
    def counts_agree(self):
        held = self.held
        assert [self.pool.ref_count(i) for i in range(NUM_BLOCKS)] == [
            held[i] for i in range(NUM_BLOCKS)
        ]
        assert self.pool.num_used == len(held)
        assert self.pool.num_free == NUM_BLOCKS - len(held)
        assert {i for i in range(NUM_BLOCKS) if self.pool.is_registered(i)} == set(self.content)
        self.pool.check()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
