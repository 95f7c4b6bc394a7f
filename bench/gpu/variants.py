"""Other tile sizes and split counts for our kernels, put in place of those they choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from typing import Any

CHOSEN = "as chosen"

_TILES = "gistserve.kernels.attention.tiles"
_ATTENTION = "gistserve.kernels.attention.triton_path"
_TILING = "gistserve.kernels.sparse.triton_tiling"
_SEGMENTED = "gistserve.kernels.sparse.triton_segmented"
_BITMAP = "gistserve.kernels.sparse.triton_bitmap"


@dataclass(frozen=True)
class Change:
    """A module's attribute in place of which stands what ``make`` returns of it."""

    module: str
    attribute: str
    make: Callable[[Any], Any]


@dataclass(frozen=True)
class Variant:
    """A set of changes under a name that tells them."""

    name: str
    changes: Sequence[Change] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block launches are those of this variant.

        Raises:
            AttributeError: a module has no such attribute (any more).
        """
        before = []
        try:
            for change in self.changes:
                module = import_module(change.module)
                original = getattr(module, change.attribute)
                setattr(module, change.attribute, change.make(original))
                before.append((module, change.attribute, original))
            yield
        finally:
            for module, attribute, original in reversed(before):
                setattr(module, attribute, original)


def constant(module: str, attribute: str, value: Any) -> Change:
    """The change to a value."""
    return Change(module, attribute, lambda _: value)


QUICK_COMPILER = Variant(
    "eager", (constant("gistserve.server.engine.compiled_layers", "BACKEND", "eager"),)
)
"""For a dry run: layers are traced, but no code is generated for them."""


def attention_variants() -> list[Variant]:
    """Bytes of a tile, warps and stages together; programs a multiprocessor on their own."""
    found = [Variant(CHOSEN)]
    for kib, warps, stages in product((16, 32, 64), (4, 8), (2, 3, 4)):
        tiles = Change(_ATTENTION, "decode_tiles", _then(num_warps=warps, num_stages=stages))
        size = constant(_TILES, "_DECODE_TILE_BYTES", kib * 1024)
        found.append(Variant(f"{kib} KiB, {warps} warps, {stages} stages", (tiles, size)))
    for programs in (2, 4, 12, 16):
        change = constant(_TILES, "_DECODE_PROGRAMS", programs)
        found.append(Variant(f"{programs} programs", (change,)))
    return found


def segmented_variants() -> list[Variant]:
    """Rows of a program, programs a multiprocessor, and warps of a program."""
    found = [Variant(CHOSEN)]
    for rows, programs, warps in product((16, 8, 4), (1.0, 1.75, 3.5), (8, 4)):
        changes = (
            constant(_TILING, "ROWS", (rows,)),
            constant(_TILING, "PROGRAMS_PER_MULTIPROCESSOR", programs),
            constant(_TILING, "THREADS", 32 * warps),
            Change(_SEGMENTED, "segmented_tiling", _then(num_warps=warps)),
        )
        found.append(Variant(f"{rows} rows, {programs:g} programs, {warps} warps", changes))
    return found


def bitmap_variants() -> list[Variant]:
    """Rows and warps of a program, and how many programs there are at the least."""
    found = [Variant(CHOSEN)]
    sizes = ((32, 2), (32, 4), (64, 4), (64, 8), (128, 4), (128, 8))
    for (rows, warps), share in product(sizes, (0.5, 1.0, 2.0)):
        changes = (
            constant(_TILING, "BITMAP_ROWS", rows),
            constant(_BITMAP, "BITMAP_ROWS", rows),
            constant(_BITMAP, "BITMAP_WARPS", warps),
            Change(_BITMAP, "multiprocessors", _times(share)),
        )
        found.append(Variant(f"{rows} rows, {warps} warps, {share:g}x programs", changes))
    return found


def _then(**fields: Any) -> Callable[[Any], Any]:
    """Makes of a function that returns a dataclass one whose result has other fields."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: replace(function(*args, **kwargs), **fields)

    return wrap


def _times(factor: float) -> Callable[[Any], Any]:
    """Makes of a function that counts one that counts so many times as much."""

    def wrap(function: Callable[..., int]) -> Callable[..., int]:
        return lambda *args: max(1, round(function(*args) * factor))

    return wrap
