"""`quantization_config` of a sparse checkpoint's config.json."""

from collections.abc import Mapping
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import SparseCheckpointError

QUANT_METHOD = "gistserve_sparse"
FORMAT_VERSION = 1


class SparseConfig(QuantizationConfigMixin):
    """Which modules of a checkpoint are stored sparse.

    Beside each such module's name lie `weight_bitmap`, uint8 [N, ceil(K/8)], and `weight_values`,
    [nnz] in the model's dtype (see `gistserve.kernels.sparse.BitmapWeight`), in place of its
    `weight`; all other tensors are stored as ever.

    Args:
        modules: number of stored values of every sparse module, by its name in the model.
        method: how the weights were chosen, in plain words.
        sparsity: the share of zeros asked for in every sparse module; None where it differs.
        pattern: "unstructured", "balanced" or "2:4".
        dense_modules: modules with a matrix that was left dense.
        format_version: of the layout above.

    Raises:
        SparseCheckpointError: an unknown format version, or a field of the wrong kind.
    """

    def __init__(
        self,
        modules: Mapping[str, int] | None = None,
        method: str = "",
        sparsity: float | None = None,
        pattern: str = "unstructured",
        dense_modules: list[str] | None = None,
        format_version: int = FORMAT_VERSION,
        quant_method: str = QUANT_METHOD,
        **unknown: Any,
    ) -> None:
        if format_version != FORMAT_VERSION or unknown:
            what = f"field {sorted(unknown)[0]!r}" if unknown else f"version {format_version!r}"
            raise SparseCheckpointError(
                f"config.json: quantization_config has the unknown {what}; this version of "
                f"gistserve reads format version {FORMAT_VERSION}: update gistserve"
            )
        if not isinstance(modules, Mapping) or not all(map(_is_count, modules.values())):
            raise SparseCheckpointError(
                "config.json: quantization_config.modules must give every sparse module's number "
                "of stored values; make the checkpoint again"
            )
        self.quant_method: Any = quant_method
        self.format_version = format_version
        self.method = method
        self.sparsity = sparsity
        self.pattern = str(pattern)
        self.modules = dict(modules)
        self.dense_modules = list(dense_modules or ())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
