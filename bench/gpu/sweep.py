"""Our kernels under other settings than they choose, to set the choice right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from torch import Tensor

from ...kernels.attention.options import AttentionOptions
from ...kernels.attention.tiles import Target
from ...kernels.sparse import BitmapTiles, SegmentedRows
from .attention import case_of
from .attention_inputs import AttentionCase, PagedInputs
from .bench import Bench, Prepared
from .device import BenchDevice
from .model_shapes import LLAMA_1B, LLAMA_8B, TINY
from .sparse import rotated_product
from .sparse_weights import SparseWeights
from .timing import Call
from .variants import Variant, attention_variants, bitmap_variants, segmented_variants

ATTENTION = "sweep_attention"
SEGMENTED = "sweep_segmented"
BITMAP = "sweep_bitmap"

_DECODES = ((8, 32_768), (1, 32_768), (64, 2048), (8, 2048))
_LAYERS = (((4096, 4096), 0.9), ((14_336, 4096), 0.9), ((4096, 11_008), 0.9), ((4096, 4096), 0.5))

_HOPPER = Target(capability=90, num_multiprocessors=4, shared_memory=232_448)


def run_attention(bench: Bench) -> None:
    """Decode steps of long and short sequences, few and many."""
    tiny = bench.device.tiny
    shapes, sizes = ((TINY,), ((2, 40),)) if tiny else ((LLAMA_8B, LLAMA_1B), _DECODES)
    for batch, length in sizes:
        for shape in shapes:
            case = AttentionCase(shape, batch, length, 1)
            inputs = cache(partial(_paged_inputs, case, bench.device))
            for variant in _some(attention_variants(), tiny):
                prepare = partial(_prepare_attention, case, inputs, variant)
                bench.measure(variant.name, case_of(case), prepare, floor_bytes=case.floor_bytes)


def run_segmented(bench: Bench) -> None:
    """Segmented rows, for one vector and for as many as a launch takes."""
    from ...kernels.sparse.triton_segmented import segmented_matvec

    def convert(weights: SparseWeights) -> SegmentedRows:
        return SegmentedRows.from_bitmap(weights.balanced)

    _run_sparse(bench, segmented_variants(), (1, 8), convert, segmented_matvec)


def run_bitmap(bench: Bench) -> None:
    """Bitmaps, for small and large batches."""
    from ...kernels.sparse.triton_bitmap import bitmap_matmul

    def convert(weights: SparseWeights) -> BitmapTiles:
        return BitmapTiles.from_bitmap(weights.balanced)

    _run_sparse(bench, bitmap_variants(), (16, 64, 1), convert, bitmap_matmul)


def _run_sparse(
    bench: Bench,
    variants: Sequence[Variant],
    batches: Sequence[int],
    convert: Callable[[SparseWeights], Any],
    multiply: Callable[..., Tensor],
) -> None:
    tiny = bench.device.tiny
    for batch in batches[:1] if tiny else batches:
        for shape, sparsity in (((24, 256), 0.9),) if tiny else _LAYERS:
            weights = SparseWeights(bench.device, shape, sparsity)
            weight = cache(partial(convert, weights))
            for variant in _some(variants, tiny):
                bench.measure(
                    variant.name,
                    {"shape": f"{shape[0]}x{shape[1]}", "sparsity": sparsity, "batch": batch},
                    partial(_prepare_sparse, weights, weight, batch, multiply, variant),
                )


def _prepare_sparse(
    weights: SparseWeights,
    weight: Callable[[], Any],
    batch: int,
    multiply: Callable[..., Tensor],
    variant: Variant,
) -> Prepared:
    prepared = rotated_product(weights, weights.balanced, weight(), multiply, batch)
    return Prepared(
        [partial(_call_under, variant, call) for call in prepared.calls],
        prepared.reference,
        prepared.floor_bytes,
    )


def _prepare_attention(
    case: AttentionCase, make_inputs: Callable[[], PagedInputs], variant: Variant
) -> Prepared:
    from ...kernels.attention.triton_path import triton_paged_attention

    inputs = make_inputs()
    target = None if inputs.query.device.type == "cuda" else _HOPPER
    calls = [
        partial(
            triton_paged_attention,
            inputs.query,
            inputs.key,
            inputs.value,
            inputs.key_cache,
            inputs.value_cache,
            metadata,
            AttentionOptions(scale=case.shape.head_dim**-0.5),
            target,
        )
        for metadata in inputs.metadata
    ]
    reference = partial(inputs.reference, case) if case.has_reference else None
    return Prepared([partial(_call_under, variant, call) for call in calls], reference)


def _paged_inputs(case: AttentionCase, device: BenchDevice) -> PagedInputs:
    return PagedInputs.random(case, device, device.copies(case.kv_bytes))


def _call_under(variant: Variant, call: Call) -> Any:
    with variant.applied():
        return call()


def _some(variants: Sequence[Variant], tiny: bool) -> Sequence[Variant]:
    """In a dry run every eighth, which still has each kind of change."""
    return variants[::8] if tiny else variants
