"""What an engine is: sizes that stay as they are while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...kernels.sparse import SparseLinear
from .packed_weights import packed_bytes


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Sizes of one engine."""

    weight_bytes: int
    """Bytes of the weights as they lie on the device; shared ones count once, sparse ones in the
    format that they are computed in."""
    kv_bytes_per_token: int
    """Bytes of keys and values in one slot, over all layers."""
    block_size: int
    """Slots in a block."""
    num_blocks: int
    kv_cache_bytes: int
    """Bytes of all of them: this model's part of what the models share."""
    max_model_len: int
    max_num_seqs: int
    dtype: str
    device: str


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters, buffers, packed weights and prepared sparse weights."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not t.is_mkldnn]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    sparse = (module for module in model.modules() if isinstance(module, SparseLinear))
    prepared = sum(module.prepare().num_bytes for module in sparse)
    return sum(storages.values()) + packed_bytes(model) + prepared
