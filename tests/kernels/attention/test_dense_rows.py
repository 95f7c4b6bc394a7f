"""Dense rows hold what the pages hold, whatever happens to the pages in between."""

import numpy as np
import pytest
import torch
from gistserve.kernels.attention import (
    AttentionMetadata,
    DenseRows,
    paged_attention,
    reference_paged_attention,
)
from gistserve.kernels.attention import dense_rows as module
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCK_SIZE, NUM_BLOCKS = 2, 40
HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 8, 6
OPTIONS = [
    {},
    {"sliding_window": 3},
    {"softcap": 1.5, "sinks": torch.linspace(-1, 1, HEADS)},
]


class World:
    """A pool, its dense rows, and float64 pages that only the definition touches."""

    def __init__(self, max_bytes=10**6):
        self.caches = [
            torch.randn(NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, dim) for dim in (DIM, VALUE_DIM)
        ]
        self.oracle = [cache.double() for cache in self.caches]
        self.dense = DenseRows([tuple(self.caches)], max_bytes)

    def step(self, parts, **options):
        """Attend for ``(row, new tokens, slots, blocks)`` parts; True if dense rows served."""
        rows, counts, lens, tables = zip(*parts, strict=True)
        metadata = AttentionMetadata.build(counts, lens, tables, BLOCK_SIZE)
        metadata.dense = self.dense.begin_step(
            np.array(rows),
            metadata.query_start_loc.numpy(),
            metadata.seq_lens.numpy(),
            metadata.block_table.numpy(),
            metadata.slot_mapping.numpy(),
        )
        total = sum(counts)
        query, key = torch.randn(total, HEADS, DIM), torch.randn(total, KV_HEADS, DIM)
        new = (query, key, torch.randn(total, KV_HEADS, VALUE_DIM))
        wanted = reference_paged_attention(
            *(tensor.double() for tensor in new), *self.oracle, metadata, scale=0.4, **options
        )
        actual = paged_attention(*new, *self.caches, metadata, scale=0.4, **options)
        assert torch.allclose(actual.double(), wanted, atol=1e-5)
        return metadata.dense is not None

    def overwrite(self, block):
        for cache, oracle in zip(self.caches, self.oracle, strict=True):
            cache[block].normal_()
            oracle[block] = cache[block].double()
        self.dense.touch([block])


A, B, C = [7, 3, 9, 1, 20, 21], [2, 8, 4, 30, 31, 32], [12, 15, 11, 18, 22, 24]


@pytest.mark.parametrize("options", OPTIONS)
def test_decode_step_by_step(options):
    world = World()
    world.step([(0, 3, 3, A), (1, 5, 5, B)], **options)
    for i in range(1, 5):
        assert world.step([(0, 1, 3 + i, A), (1, 1, 5 + i, B)], **options)


@pytest.mark.parametrize("options", OPTIONS)
def test_order_idle_rows_and_prefill_beside(options):
    world = World()
    assert world.step([(4, 1, 3, A), (1, 1, 5, B)], **options)
    assert world.step([(1, 1, 6, B), (0, 4, 4, C), (4, 1, 4, A)], **options)
    assert world.step([(0, 1, 5, C), (4, 1, 5, A)], **options)
    assert world.step([(1, 1, 7, B), (4, 1, 6, A), (0, 1, 6, C)], **options)


@pytest.mark.parametrize("options", OPTIONS)
def test_unlike_lengths_run_one_by_one(options, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT_COST", 0)
    world = World()
    for i in range(3):
        assert world.step([(0, 1, 2 + i, A), (2, 2, 2 + 2 * i, C), (1, 1, 9 + i, B)], **options)


def test_row_taken_over_by_a_sequence_with_the_same_blocks():
    world = World()
    world.step([(0, 1, 4, A), (1, 1, 4, B)])
    world.step([(2, 4, 4, A)])  # the blocks of A, freed and filled anew, as long as before
    world.step([(0, 1, 5, A), (1, 1, 5, B)])


def test_numbers_that_another_sequence_left_in_a_row():
    world = World()
    world.step([(0, 1, 6, A), (1, 1, 6, B)])
    dense_key, dense_value = world.dense._layers[world.caches[0].data_ptr()]
    dense_key[0], dense_value[0] = torch.nan, torch.inf  # as after an overflow
    world.step([(0, 1, 2, C), (1, 1, 7, B)])


def test_sequences_of_one_length_that_change_rows():
    world = World()
    world.step([(0, 1, 4, A), (1, 1, 4, B)])
    world.step([(1, 1, 5, A), (0, 1, 5, B)])


def test_blocks_written_by_copies():
    world = World()
    world.step([(0, 1, 4, A), (1, 1, 4, B)])
    world.overwrite(A[0])
    world.step([(0, 1, 5, A), (1, 1, 5, B)])


def test_step_that_was_not_computed():
    world = World()
    world.step([(0, 1, 4, A), (1, 1, 4, B)])
    lens, table = np.array([5, 5], dtype=np.int32), np.array([A, B], dtype=np.int32)
    world.dense.begin_step(
        np.arange(2), np.arange(3, dtype=np.int32), lens, table, np.array([18, 8])
    )
    world.dense.reset()
    world.step([(0, 1, 6, A), (1, 1, 6, B)])


def test_memory_is_bounded():
    world = World(max_bytes=0)
    assert not world.step([(0, 1, 4, A), (1, 1, 4, B)])


def test_room_that_a_longer_sequence_took_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "_GROWTH", 1)
    per_slot = KV_HEADS * (DIM + VALUE_DIM) * 4
    world = World(max_bytes=12 * per_slot)
    assert world.step([(0, 1, 12, A)])
    assert world.step([(0, 1, 4, B), (1, 1, 6, C)])  # two rows of twelve would not fit
    assert not world.step([(0, 1, 5, B), (1, 1, 7, C)])
    assert world.step([(0, 1, 6, B), (1, 1, 4, A)])


def test_one_run_of_pages_needs_no_row():
    world = World()
    assert not world.step([(0, 1, 5, [4, 5, 6])])
    assert world.step([(0, 1, 5, [4, 6, 5])])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_history(data):
    """Sequences start, grow, end, swap rows and blocks, and blocks change under none of them."""
    world, running = World(), {}
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["start", "end", "overwrite", "step", "step"]))
        free = sorted(set(range(NUM_BLOCKS)) - {b for _, t in running.values() for b in t})
        if action == "start" and len(running) < 4:
            row = data.draw(st.sampled_from(sorted(set(range(5)) - set(running))))
            table = data.draw(st.permutations(free))[:5]
            running[row] = (0, table)
        elif action == "end" and running:
            running.pop(data.draw(st.sampled_from(sorted(running))))
        elif action == "overwrite":
            world.overwrite(data.draw(st.sampled_from(free)))
        elif action == "step":
            parts = []
            for row in data.draw(st.permutations(sorted(running))):
                length, table = running[row]
                count = data.draw(st.sampled_from([0, 1, 1, 3]))
                if count and length + count <= 10:
                    parts.append((row, count, length + count, table))
                    running[row] = (length + count, table)
            if parts:
                world.step(parts, **data.draw(st.sampled_from(OPTIONS)))
