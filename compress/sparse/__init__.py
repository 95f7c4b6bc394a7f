"""Sparse checkpoints: making, writing, and loading them through transformers."""

from .calibration import calibration_tokens
from .config import SparseConfig
from .layers import sparse_modules
from .pattern import Pattern
from .quantizer import SparseQuantizer, register
from .save import save_sparse
from .sparsify import Method, SparseRecipe, sparsify

__all__ = [
    "Method",
    "Pattern",
    "SparseConfig",
    "SparseQuantizer",
    "SparseRecipe",
    "calibration_tokens",
    "register",
    "save_sparse",
    "sparse_modules",
    "sparsify",
]
