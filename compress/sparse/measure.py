"""What a sparse checkpoint takes, counted on what was written."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from ...kernels.sparse import BitmapWeight
from .config import SparseConfig

_PACKAGES = ("gistserve", "torch", "transformers")


def measure(
    config: SparseConfig,
    weights: Mapping[str, BitmapWeight],
    tensors: Mapping[str, Tensor],
    folder: Path,
) -> dict[str, Any]:
    """Facts for `sparsity.json`: settings, totals, and shape, nnz and bytes of every module.

    `tensors` are all that was written to `folder`; `dense_bytes` is what they would take if the
    sparse modules' weights were stored dense in the same dtype.
    """
    elements = sum(rows * columns for rows, columns in (w.shape for w in weights.values()))
    nnz = sum(weight.nnz for weight in weights.values())
    tensor_bytes = _distinct_bytes(tensors.values())
    dense_bytes = tensor_bytes + sum(_dense_bytes(w) - w.num_bytes for w in weights.values())
    return {
        "format_version": config.format_version,
        "method": config.method,
        "pattern": config.pattern,
        "sparsity": config.sparsity,
        "measured_sparsity": 1 - nnz / elements if elements else 0.0,
        "dense_bytes": dense_bytes,
        "tensor_bytes": tensor_bytes,
        "weight_file_bytes": sum(f.stat().st_size for f in folder.glob("*.safetensors")),
        "made_with": {name: version(name) for name in _PACKAGES},
        "modules": {name: _module_facts(weight) for name, weight in weights.items()},
        "dense_modules": config.dense_modules,
    }


def _module_facts(weight: BitmapWeight) -> dict[str, Any]:
    return {
        "shape": list(weight.shape),
        "nnz": weight.nnz,
        "sparsity": weight.sparsity,
        "bytes": weight.num_bytes,
        "dense_bytes": _dense_bytes(weight),
    }


def _dense_bytes(weight: BitmapWeight) -> int:
    return weight.shape[0] * weight.shape[1] * weight.values.element_size()


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, tied ones once."""
    sizes = {(t.device, t.data_ptr(), t.shape): t.numel() * t.element_size() for t in tensors}
    return sum(sizes.values())
