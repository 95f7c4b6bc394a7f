"""Sparse weights to test with."""

import torch
from hypothesis import strategies as st

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def masked_weight(
    rows: int, columns: int, sparsity: float, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random weight without zeros and a random mask that drops ``sparsity`` of it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    weight[weight == 0] = 1
    return weight, torch.rand(rows, columns, generator=generator) >= sparsity


@st.composite
def masked_weights(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Any shape (no multiple of 8 or 256 included), dtype and sparsity; some kept values are 0."""
    rows = draw(st.integers(1, 9))
    columns = draw(st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 300, 512, 777])))
    sparsity = draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99, 1.0]))
    dtype = draw(st.sampled_from(DTYPES))
    weight, mask = masked_weight(rows, columns, sparsity, dtype, seed=draw(st.integers(0, 10**6)))
    mask[draw(st.integers(0, rows - 1))] &= draw(st.booleans())
    weight[:, :: draw(st.integers(1, 5))] *= draw(st.sampled_from([0.0, 1.0]))
    return weight, mask


def balanced_mask(rows: int, columns: int, count: int, partial: int, seed: int = 0) -> torch.Tensor:
    """A mask with ``count`` kept in every whole 256-column segment, ``partial`` in the rest."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for start in range(0, columns, 256):
        width = min(256, columns - start)
        kept = count if width == 256 else partial
        chosen = torch.rand(rows, width, generator=generator).argsort(1)[:, :kept]
        mask[:, start : start + width].scatter_(1, chosen, True)
    return mask
