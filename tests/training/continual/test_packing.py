"""Packing: every token once an epoch, rows by their number alone."""

import numpy as np
import pytest
from gistserve.training.continual.packing import PackedRows, Piece
from gistserve.training.continual.source import Source
from gistserve.training.continual.tokens import TokenStore, open_store
from hypothesis import given, settings
from hypothesis import strategies as st

from .texts import ENGLISH, word_tokenizer, write_texts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("packing")
    source = Source(name="old", path=str(write_texts(folder / "old.jsonl", ENGLISH, 30)))
    return open_store(source, word_tokenizer(), folder, progress=False, shard_tokens=100)


def epoch_of(rows: PackedRows, epoch: int) -> list[tuple[int, int, Piece]]:
    """(stream position, row) of each piece of one epoch, cut at the epoch's ends."""
    first, last = epoch * rows.store.tokens, (epoch + 1) * rows.store.tokens
    found = []
    for index in range(first // rows.length, -(-last // rows.length)):
        position = index * rows.length
        for piece in rows.row(index):
            if first <= position < last:
                found.append((position, index, piece))
            position += len(piece.tokens)
    return found


@pytest.mark.parametrize("length", [2, 16, 64, 1000])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_no_token_is_lost_or_repeated_in_an_epoch(
    length: int, shuffle: bool, epoch: int, store: TokenStore
) -> None:
    rows = PackedRows(store, length, shuffle=shuffle)
    seen = [np.zeros(int(n), int) for n in store.lengths]
    order: list[int] = []
    for _, _, piece in epoch_of(rows, epoch):
        end = piece.start + len(piece.tokens)
        seen[piece.document][piece.start : end] += 1
        assert piece.tokens.tolist() == store.read(piece.document, piece.start, end).tolist()
        following = store.read(piece.document, end, end + 1).tolist()
        if end == store.lengths[piece.document]:
            assert piece.following is None
        else:
            assert [piece.following] == following
        if piece.start == 0:
            order.append(piece.document)
    assert all((counts == 1).all() for counts in seen)
    assert (order == list(range(store.documents))) == (not shuffle)


def test_every_row_is_full(store: TokenStore) -> None:
    rows = PackedRows(store, 16)
    for index in range(3 * rows.rows_per_epoch):
        assert sum(len(piece.tokens) for piece in rows.row(index)) == 16


def test_epochs_differ_and_seeds_differ(store: TokenStore) -> None:
    def order(epoch: int, seed: int) -> list[int]:
        rows = PackedRows(store, 16, order_seed=seed)
        return [p.document for _, _, p in epoch_of(rows, epoch) if p.start == 0]

    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) == order(0, 0)


@settings(max_examples=50, deadline=None)
@given(indices=st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_a_row_depends_on_its_number_alone(indices: list[int], store: TokenStore) -> None:
    used, fresh = PackedRows(store, 16), None
    for index in indices:
        fresh = PackedRows(store, 16)
        ours, theirs = used.row(index), fresh.row(index)
        assert [p.tokens.tolist() for p in ours] == [p.tokens.tolist() for p in theirs]
