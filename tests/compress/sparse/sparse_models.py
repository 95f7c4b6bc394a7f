"""Tiny sparse checkpoints, and the dense models with the same zeros."""

from pathlib import Path
from typing import Any

from gistserve.compress.sparse import save_sparse, sparsify
from transformers import PreTrainedModel

from ...families import tiny_model


def sparse_checkpoint(
    folder: Path, family: str = "llama", *, sparsity: float = 0.7, tokenizer: Any = None, **changes
) -> PreTrainedModel:
    """Write a checkpoint; returns its dense masked twin."""
    twin = tiny_model(family, **changes)
    save_sparse(twin, folder, sparsify(twin, sparsity=sparsity), tokenizer=tokenizer)
    return twin
