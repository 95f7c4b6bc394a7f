"""Measures on a CUDA device what steps take, before the pool takes what they leave."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from .config import EngineConfig
from .device_memory import DeviceMemory, graph_bytes
from .request import Request, SamplingParams
from .scheduler_output import ScheduledSequence, SchedulerOutput
from .sequence import Sequence as EngineSequence

Progress = Callable[[Sequence[int]], Iterable[int]]


def full_step(config: EngineConfig, max_model_len: int) -> SchedulerOutput:
    """A step that takes as much memory as any: every token that a step may have, in as many
    sequences as may run, which all draw from the most probable tokens.

    All of it lies in block 0.
    """
    num_tokens = min(config.max_num_batched_tokens, config.max_num_seqs * max_model_len)
    num_seqs = min(config.max_num_seqs, num_tokens)
    ends = np.arange(num_seqs + 1) * num_tokens // num_seqs
    counts = np.diff(ends)
    starts = np.repeat(ends[:-1], counts)
    positions = np.arange(num_tokens) - starts
    sampling = SamplingParams(top_p=0.9, max_tokens=1)
    return SchedulerOutput(
        sequences=[
            ScheduledSequence(
                EngineSequence(Request(f"profile-{row}", [0] * count, sampling), 1),
                start=0,
                num_new_tokens=count,
                num_logits=1,
                samples=True,
            )
            for row, count in enumerate(counts.tolist())
        ],
        token_ids=np.zeros(num_tokens, dtype=np.int64),
        positions=positions,
        slot_mapping=positions % config.block_size,
        query_start_loc=ends.astype(np.int32),
        seq_lens=counts.astype(np.int32),
        block_table=np.zeros((num_seqs, -(-max_model_len // config.block_size)), dtype=np.int32),
        max_query_len=int(counts.max()),
        max_seq_len=max_model_len,
        logits_indices=ends[1:] - 1,
        block_copies=[],
    )


def measure_memory(
    device: torch.device,
    step: Callable[[], object],
    capture: Callable[[Progress], object] | None,
    num_graphs: int,
) -> DeviceMemory:
    """The memory of ``device``, and what is about to be taken of it.

    Args:
        device: a CUDA device on which the model lies.
        step: computes a step that takes as much memory as any.
        capture: captures the decode steps of the two largest sizes, the largest first, wrapping
            them by its argument, and returns what keeps them; None where none will be captured.
        num_graphs: how many sizes will be.
    """
    step()  # compiles kernels and allocates workspaces, which stay
    peak = _peak_bytes(device, step)
    graphs = 0
    if capture is not None:
        graphs = graph_bytes(*_captured_bytes(device, capture), num_graphs)
        gc.collect()
    return DeviceMemory(
        total=torch.cuda.mem_get_info(device)[1],
        in_use=_bytes_in_use(device),
        step=peak,
        graphs=graphs,
    )


def _captured_bytes(device: torch.device, capture: Callable[[Progress], object]) -> tuple[int, int]:
    """What the largest size and the next one took, which are given up again."""
    in_use = [_bytes_in_use(device)]

    def watch(sizes: Sequence[int]) -> Iterator[int]:
        for size in sizes:
            yield size
            in_use.append(_bytes_in_use(device))

    capture(watch)
    first, *last = (after - before for before, after in pairwise(in_use))
    return first, sum(last)


def _peak_bytes(device: torch.device, step: Callable[[], object]) -> int:
    """What a step takes at its peak beside what stays allocated."""
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)


def _bytes_in_use(device: torch.device) -> int:
    """By anybody; memory that torch has cached but does not use counts as free."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return total - free
