"""What is kept within a number of bytes, and what goes to make room for more."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")


def _never(_: object) -> bool:
    return False


class ByteBudget(Generic[K]):
    """Keys and their sizes; iterates from the least to the most recently used.

    Args:
        limit: bytes that all keys together may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._sizes: OrderedDict[K, int] = OrderedDict()

    def __iter__(self) -> Iterator[K]:
        return iter(self._sizes)

    def add(self, key: K, num_bytes: int) -> None:
        """Keeps a key as the one used last. Raises ValueError if it is kept, or has no room."""
        if key in self._sizes:
            raise ValueError("the key is kept already")
        if self.used + num_bytes > self.limit:
            raise ValueError(f"{num_bytes} bytes do not fit beside {self.used} of {self.limit}")
        self._sizes[key] = num_bytes
        self.used += num_bytes

    def touch(self, key: K) -> None:
        """Makes a key the one used last; nothing happens where it is not kept."""
        if key in self._sizes:
            self._sizes.move_to_end(key)

    def discard(self, key: K) -> None:
        """Forgets a key; nothing happens where it is not kept."""
        self.used -= self._sizes.pop(key, 0)

    def victims(self, num_bytes: int, is_busy: Callable[[K], bool] = _never) -> list[K]:
        """The keys that must go before `num_bytes` more fit, none without need.

        What is not busy goes first, and of that what was used least recently. Raises ValueError if
        so many bytes would not fit even alone.
        """
        if num_bytes > self.limit:
            raise ValueError(f"{num_bytes} bytes are more than the whole budget of {self.limit}")
        busy = {key: is_busy(key) for key in self._sizes}
        chosen: list[K] = []
        left = self.used
        for key in sorted(self._sizes, key=busy.__getitem__):  # stable
            if left + num_bytes <= self.limit:
                break
            chosen.append(key)
            left -= self._sizes[key]
        return chosen
