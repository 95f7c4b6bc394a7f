"""Paged attention against dense peers and its floors: decoding, and prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from ...kernels.attention import paged_attention
from . import attention_peers as peers
from .attention_inputs import AttentionCase, DenseInputs, PagedInputs
from .bench import Bench, Prepared
from .device import BenchDevice
from .measurement import Case
from .model_shapes import LLAMA_1B, LLAMA_8B, TINY
from .timing import Call

DECODE = "attention_decode"
PREFILL = "attention_prefill"
OURS = "paged"

_LENGTHS = (32_768, 512, 8192, 2048)  # the length of the standard first
_BATCHES = (1, 8, 64)
_PREFILLS = ((1, 8192, 8192), (1, 2048, 2048), (8, 512, 512), (1, 8192, 512))


def run_decode(bench: Bench) -> None:
    """One new token a sequence: our operator, scaled_dot_product_attention, FlashInfer."""
    for case in decode_cases(bench.device):
        _measure_ours(bench, case)
        _measure_dense(bench, case, "sdpa flash")
        if peers.has_flashinfer():
            _measure_paged(bench, case, "flashinfer", peers.flashinfer)


def run_prefill(bench: Bench) -> None:
    """Whole prompts, and a chunk behind a cached prefix."""
    for case in prefill_cases(bench.device):
        _measure_ours(bench, case)
        for arm in peers.BACKENDS:
            _measure_dense(bench, case, arm)


def decode_cases(device: BenchDevice) -> list[AttentionCase]:
    """Batches of equal sequences, shortest and longest of both models."""
    if device.tiny:
        return [AttentionCase(TINY, batch, 40, 1) for batch in (1, 2)]
    return [
        AttentionCase(shape, batch, length, 1)
        for length in _LENGTHS
        for shape in (LLAMA_8B, LLAMA_1B)
        for batch in _BATCHES
    ]


def prefill_cases(device: BenchDevice) -> list[AttentionCase]:
    """(batch, length, new tokens) of both models."""
    if device.tiny:
        return [AttentionCase(TINY, 2, 40, 40), AttentionCase(TINY, 1, 40, 8)]
    return [AttentionCase(shape, *sizes) for sizes in _PREFILLS for shape in (LLAMA_8B, LLAMA_1B)]


def case_of(case: AttentionCase) -> Case:
    """How results name a case."""
    named: Case = {
        "model": case.shape.name,
        "head_size": case.shape.head_dim,
        "batch": case.batch,
        "length": case.length,
    }
    return named if case.new == 1 else named | {"new": case.new}


def paged_calls(case: AttentionCase, inputs: PagedInputs) -> list[Call]:
    """Our operator over each copy of the inputs."""
    return [
        partial(
            paged_attention,
            inputs.query,
            inputs.key,
            inputs.value,
            inputs.key_cache,
            inputs.value_cache,
            metadata,
            scale=case.shape.head_dim**-0.5,
        )
        for metadata in inputs.metadata
    ]


def _measure_ours(bench: Bench, case: AttentionCase) -> None:
    _measure_paged(bench, case, OURS, paged_calls)


def _measure_paged(
    bench: Bench,
    case: AttentionCase,
    arm: str,
    make_calls: Callable[[AttentionCase, PagedInputs], Sequence[Call]],
) -> None:
    def prepare() -> Prepared:
        inputs = PagedInputs.random(case, bench.device, bench.device.copies(case.kv_bytes))
        reference = partial(inputs.reference, case) if case.has_reference else None
        return Prepared(make_calls(case, inputs), reference)

    _measure(bench, case, arm, prepare)


def _measure_dense(bench: Bench, case: AttentionCase, arm: str) -> None:
    def prepare() -> Prepared:
        inputs = DenseInputs.random(case, bench.device, bench.device.copies(case.kv_bytes))
        reference: Callable[[], Tensor] | None = inputs.reference if case.has_reference else None
        return Prepared(peers.sdpa(case, inputs, arm), reference)

    _measure(bench, case, arm, prepare)


def _measure(bench: Bench, case: AttentionCase, arm: str, prepare: Callable[[], Prepared]) -> None:
    bench.measure(
        arm,
        case_of(case),
        prepare,
        floor_bytes=case.floor_bytes,
        floor_flops=case.floor_flops,
    )
