"""Attention over a paged key/value cache."""

from .dense_rows import DenseRows, DenseStep
from .metadata import AttentionMetadata
from .operator import paged_attention
from .reference import reference_paged_attention

__all__ = [
    "AttentionMetadata",
    "DenseRows",
    "DenseStep",
    "paged_attention",
    "reference_paged_attention",
]
