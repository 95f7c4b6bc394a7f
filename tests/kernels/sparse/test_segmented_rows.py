"""Segmented rows: entries, padding and balance."""

import dataclasses

import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight, SegmentedRows, SparseFormatError
from hypothesis import given, settings

from .samples import balanced_mask, masked_weight, masked_weights


def segmented(weight: torch.Tensor, mask: torch.Tensor | None = None) -> SegmentedRows:
    return SegmentedRows.from_bitmap(BitmapWeight.from_dense(weight, mask))


@settings(deadline=None)
@given(masked_weights())
def test_round_trip_drops_only_the_padding(sample):
    weight, mask = sample
    sparse = BitmapWeight.from_dense(weight, mask)
    rows = SegmentedRows.from_bitmap(sparse)
    back = rows.to_bitmap()
    assert torch.equal(back.bitmap, sparse.bitmap)
    assert torch.equal(back.values, sparse.values)
    assert torch.equal(rows.to_dense(), weight * mask)


@settings(deadline=None)
@given(masked_weights())
def test_entries_are_where_the_offsets_say(sample):
    weight, mask = sample
    rows = segmented(weight, mask)
    starts = rows.starts()
    dense = torch.zeros(weight.shape[0], rows.segments * 256, dtype=torch.float64)
    for index in range(weight.shape[0] * rows.segments):
        start, stop = int(starts[index]), int(starts[index + 1])
        assert start % 8 == 0
        assert stop % 8 == 0
        row, segment = divmod(index, rows.segments)
        for entry in range(start, stop):
            dense[row, segment * 256 + int(rows.columns[entry])] += rows.values[entry].double()
    assert torch.equal(dense[:, : weight.shape[1]], (weight * mask).double())
    assert int(starts[-1]) == rows.values.numel()


@pytest.mark.parametrize(
    ("columns", "count", "partial", "padded"),
    [(512, 26, 0, 32), (768, 24, 0, 24), (600, 24, 9, 24), (600, 24, 24, 24), (100, 0, 7, 8)],
)
def test_equal_counts_need_no_offsets(columns, count, partial, padded):
    weight, _ = masked_weight(5, columns, 0.0)
    mask = balanced_mask(5, columns, count, partial)
    rows = segmented(weight, mask)
    assert rows.is_balanced
    assert rows.offsets is None
    assert rows.count == padded
    assert rows.values.numel() == 5 * rows.segments * padded
    assert torch.equal(rows.to_dense(), weight * mask)


@pytest.mark.parametrize(
    ("columns", "count", "partial"), [(600, 24, 25), (600, 24, 0), (512, 0, 0)]
)
def test_a_fuller_or_empty_last_segment_is_not_balanced(columns, count, partial):
    weight, _ = masked_weight(5, columns, 0.0)
    rows = segmented(weight, balanced_mask(5, columns, count, partial))
    assert not rows.is_balanced
    assert rows.offsets is not None


def test_one_element_more_in_one_row_is_not_balanced():
    weight, _ = masked_weight(5, 512, 0.0)
    mask = balanced_mask(5, 512, 24, 0)
    mask[3, int((~mask[3]).nonzero()[0])] = True
    rows = segmented(weight, mask)
    assert not rows.is_balanced
    assert torch.equal(rows.to_dense(), weight * mask)


def test_kept_zeros_in_column_0_survive_the_padding():
    weight = torch.zeros(3, 600)
    mask = torch.zeros(3, 600, dtype=torch.bool)
    mask[:, [0, 256, 512]] = True
    back = segmented(weight, mask).to_bitmap()
    assert torch.equal(back.mask(), mask)
    assert back.nnz == 9


def test_bytes_are_those_of_the_format():
    """3 bytes an entry and nothing else, where no segment is padded."""
    weight, _ = masked_weight(64, 2048, 0.0, torch.bfloat16)
    rows = segmented(weight, balanced_mask(64, 2048, 24, 0))
    assert rows.num_bytes == 64 * 8 * 24 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": torch.zeros(16, dtype=torch.int32)}, "columns are torch.int32"),
        ({"columns": torch.zeros(8, dtype=torch.uint8)}, r"columns are torch.uint8 \[8\]"),
        ({"values": torch.zeros(16, dtype=torch.float64)}, "values are torch.float64"),
        ({"count": 8}, "not both"),
        ({"offsets": None}, "not both"),
        ({"offsets": None, "count": 12}, "not 2 segments of 12"),
        ({"offsets": torch.zeros(3)}, "offsets are torch.float32"),
        ({"offsets": torch.zeros(2, dtype=torch.int32)}, r"need torch.int32 \[3\]"),
        ({"values": torch.zeros(16, device="meta")}, "move them to one device"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    weight = torch.zeros(2, 20)
    weight[0, 3] = weight[1, 4] = weight[1, 5] = 1
    with pytest.raises(SparseFormatError, match=message):
        dataclasses.replace(segmented(weight), **changes)
