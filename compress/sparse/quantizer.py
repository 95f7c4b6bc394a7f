"""Teaches transformers to load and save sparse checkpoints."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import SparseCheckpointError, SparsityError
from .config import QUANT_METHOD, SparseConfig
from .headers import check_headers
from .layers import is_dense_linear, is_tied, sparse_modules
from .unloaded import UnloadedSparseLinear


class SparseQuantizer(HfQuantizer):
    """Replaces the linear layers that a checkpoint stores sparse; transformers does the rest."""

    quantization_config: SparseConfig

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise SparsityError(
                "a dense model does not become sparse by loading it; make a sparse checkpoint "
                "with `gistserve compress sparse` or gistserve.compress.sparse.sparsify"
            )

    def _process_model_before_weight_loading(
        self,
        model: PreTrainedModel,
        checkpoint_files: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        expected: dict[str, tuple[int, ...]] = {}
        for name, nnz in self.quantization_config.modules.items():
            unloaded = UnloadedSparseLinear(name, _linear(model, name), nnz)
            _replace(model, name, unloaded)
            for part in ("weight_bitmap", "weight_values"):
                expected[f"{name}.{part}"] = tuple(getattr(unloaded, part).shape)
        check_headers(checkpoint_files or (), expected)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **kwargs: Any
    ) -> PreTrainedModel:
        for name in self.quantization_config.modules:
            unloaded = model.get_submodule(name)
            assert isinstance(unloaded, UnloadedSparseLinear)
            _replace(model, name, unloaded.loaded())
        return model

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What `save_pretrained` writes; config.json is told what it will find there."""
        tensors = model.state_dict()
        config = model.config.quantization_config
        config.modules = {
            name: tensors[f"{name}.weight_values"].numel() for name in sparse_modules(model)
        }
        return tensors, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def register() -> None:
    """Make SparseConfig and SparseQuantizer known to transformers, once."""
    if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(QUANT_METHOD)(SparseConfig)
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(QUANT_METHOD)(SparseQuantizer)


def _linear(model: PreTrainedModel, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if module is None or not is_dense_linear(module):
        raise SparseCheckpointError(
            f"config.json calls {name!r} a sparse module, but {type(model).__name__} has no "
            "linear layer of that name: config.json belongs to another model"
        )
    if is_tied(model, name):
        raise SparseCheckpointError(
            f"config.json calls {name!r} a sparse module, but its weight is shared with another "
            "one (tie_word_embeddings): config.json belongs to another model"
        )
    return module


def _replace(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
