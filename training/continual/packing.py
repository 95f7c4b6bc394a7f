"""Endless rows of fixed length from a token store, each a pure function of its number.

The documents of an epoch follow each other in a shuffled order, and the next epoch follows in
another one; this stream is cut into rows. So every token of a source is in exactly one row of an
epoch, and row i can be read without the rows before it. A document that spans two rows is two
pieces, of which the second one does not see the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .tokens import TokenStore

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A document, or a part of it, inside a row.

    tokens: [n] int64, n >= 1. following: the document's next token, None at its end.
    document: its number in the store; start: the piece's first token in it.
    """

    tokens: Ids
    following: int | None
    document: int = 0
    start: int = 0


class PackedRows:
    """Rows of `length` tokens from `store`.

    shuffle: false keeps the store's order in every epoch. order_seed: of the shuffled orders.
    """

    def __init__(
        self, store: TokenStore, length: int, *, shuffle: bool = True, order_seed: int = 0
    ) -> None:
        self.store = store
        self.length = length
        self._shuffle = shuffle
        self._seed = [order_seed, int(store.key[:15], 16)]
        self._order = lru_cache(maxsize=2)(self._make_order)

    @property
    def rows_per_epoch(self) -> int:
        """Whole rows in one pass over the source."""
        return self.store.tokens // self.length

    def row(self, index: int) -> list[Piece]:
        """The pieces of row `index` (0, 1, ...), together `length` tokens."""
        return list(self._pieces(index * self.length, self.length))

    def _pieces(self, position: int, wanted: int) -> Iterator[Piece]:
        while wanted:
            epoch, offset = divmod(position, self.store.tokens)
            order, ends = self._order(epoch)
            place = int(np.searchsorted(ends, offset, side="right"))
            document = int(order[place])
            length = int(self.store.lengths[document])
            start = offset - (int(ends[place]) - length)
            taken = min(wanted, length - start)
            yield self._piece(document, start, start + taken, length)
            position += taken
            wanted -= taken

    def _piece(self, document: int, start: int, end: int, length: int) -> Piece:
        tokens = self.store.read(document, start, min(end + 1, length))
        following = int(tokens[-1]) if end < length else None
        return Piece(tokens[: end - start], following, document, start)

    def _make_order(self, epoch: int) -> tuple[Ids, Ids]:
        """Documents in the order of `epoch`, and where each ends in the epoch's stream."""
        order = np.arange(self.store.documents)
        if self._shuffle:
            np.random.default_rng([*self._seed, epoch]).shuffle(order)
        return order, np.cumsum(self.store.lengths[order])
