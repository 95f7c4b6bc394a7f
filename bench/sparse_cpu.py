"""Sparse against dense linear layers on the CPU: `python -m gistserve.bench.sparse_cpu`.

The thresholds of ``kernels/sparse/choice.py`` come from these figures.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..kernels.sparse import BitmapWeight, CsrWeight, sparse_linear
from .results import write_result

SHAPES = (
    (192, 576),
    (576, 576),
    (1536, 576),
    (576, 1536),
    (2048, 2048),
    (4096, 4096),
    (11008, 4096),
)
SPARSITIES = (0.5, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
DTYPES = (torch.float32, torch.bfloat16)

# A model's layers are read from memory, not from a cache that their previous call has filled:
# calls rotate over copies that together are larger than the last-level cache.
_COPIES_BYTES = 64 * 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the grid, write it, print what share of dense time each cell takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench/results/sparse_cpu.json"))
    parser.add_argument("--pairs", type=int, default=21, help="interleaved calls of each cell")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    rows = []
    for shape, sparsity in itertools.product(SHAPES, SPARSITIES):
        measured = measure(shape, sparsity, options.threads, options.pairs)
        print(report(measured), flush=True)
        rows += measured
    load = [round(average, 1) for average in os.getloadavg()]
    write_result(options.output, {"pairs": options.pairs, "load_averages": load, "rows": rows})


def measure(
    shape: tuple[int, int], sparsity: float, threads: Sequence[int], pairs: int
) -> list[dict[str, Any]]:
    """Rows of one weight: every dtype, number of threads and batch."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    weight *= torch.rand(shape, generator=generator) >= sparsity
    rows = []
    for dtype in DTYPES:
        layers = Layers(weight.to(dtype))
        for number, batch in itertools.product(threads, BATCHES):
            cell = {"shape": list(shape), "sparsity": sparsity, "dtype": str(dtype)[6:]}
            cell |= {"threads": number, "batch": batch}
            rows.append(cell | layers.compare(batch, number, pairs))
    return rows


class Layers:
    """Copies of one weight, dense and as CSR."""

    def __init__(self, weight: Tensor) -> None:
        size = weight.numel() * weight.element_size()
        copies = range(max(1, _COPIES_BYTES // size))
        self.columns = weight.shape[1]
        self.dense = [weight.clone() for _ in copies]
        self.csr = [CsrWeight.from_bitmap(BitmapWeight.from_dense(weight)) for _ in copies]

    def compare(self, batch: int, threads: int, pairs: int) -> dict[str, float]:
        """Median microseconds of both, and dense / CSR: the median of pairs, and of the quickest.

        Where other processes take the cores, the quickest calls tell more than medians.
        """
        torch.set_num_threads(threads)
        x = torch.randn(batch, self.columns).to(self.dense[0].dtype)
        weights = itertools.cycle(zip(self.dense, self.csr, strict=True))
        times = [
            (seconds(linear, x, dense), seconds(sparse_linear, x, csr))
            for dense, csr in itertools.islice(weights, pairs + 1)
        ][1:]
        dense_times, csr_times = zip(*times, strict=True)
        return {
            "dense_us": round(statistics.median(dense_times) * 1e6, 1),
            "csr_us": round(statistics.median(csr_times) * 1e6, 1),
            "speedup": round(statistics.median(dense / csr for dense, csr in times), 3),
            "speedup_undisturbed": round(min(dense_times) / min(csr_times), 3),
        }


@torch.inference_mode()
def seconds(product: Callable[..., Tensor], x: Tensor, weight: Any) -> float:
    """Seconds of ``product(x, weight)``."""
    start = time.perf_counter()
    product(x, weight)
    return time.perf_counter() - start


def report(rows: Sequence[dict[str, Any]]) -> str:
    """One line a dtype and number of threads: the speed-up at each batch."""
    lines = []
    for (dtype, threads), group in itertools.groupby(
        rows, key=lambda row: (row["dtype"], row["threads"])
    ):
        cells = list(group)
        speedups = " ".join(f"{cell['batch']}:{cell['speedup']:.2f}" for cell in cells)
        shape = "x".join(str(size) for size in cells[0]["shape"])
        lines.append(f"{shape} {cells[0]['sparsity']:.0%} {dtype} {threads} threads  {speedups}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
