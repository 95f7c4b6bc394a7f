"""Reads checkpoints of the compressed-tensors library whose weights are sparse and not quantised.

The formats are `sparse-bitmask` and `sparse-24-bitmask` (compressed-tensors 0.3 to 0.10; later
versions no longer write them): a weight becomes `compressed` (the values that are not zero),
`bitmask` (one bit an element, least significant first), `shape` and, for the first format,
`row_offsets`, named behind the parameter (`q_proj.weight.bitmask`) by early versions and behind
the module (`q_proj.bitmask`) by later ones. The library itself is not needed.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME

from ...kernels.sparse import BitmapWeight, SparseFormatError
from ..errors import SparseCheckpointError
from ..lora import linear_modules
from ..weights_hash import weight_files
from .config import SparseConfig
from .layers import is_dense_linear, is_tied

QUANT_METHOD = "compressed-tensors"
_SPARSE_FORMATS = frozenset({"sparse-bitmask", "sparse-24-bitmask"})
_PART = re.compile(
    r"^(?P<module>.+?)(?:\.weight)?\.(?P<part>compressed|bitmask|shape|row_offsets)$"
)


def is_compressed_tensors(config: PreTrainedConfig) -> bool:
    """Whether the model's configuration says that compressed-tensors has written its weights."""
    quantization = getattr(config, "quantization_config", None)
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


def load_compressed_tensors(folder: Path, config: PreTrainedConfig, **options: Any) -> Any:
    """What `AutoModelForCausalLM.from_pretrained(folder, **options)` would return.

    Linear layers that are stored sparse become `SparseLinear`; all else (embeddings, norms and
    the output head may be stored sparse as well) is dense. `config` is the folder's and is changed
    to that of a sparse checkpoint of ours, as which the model can be saved.

    Raises SparseCheckpointError for quantised weights, other formats, and broken files.
    """
    quantization = config.quantization_config
    _check_format(quantization)
    del config.quantization_config
    modules, tensors = _decode_all(_read(weight_files(folder)), _linear_names(config))
    structure = (quantization.get("sparsity_config") or {}).get("sparsity_structure")
    sparse = SparseConfig(modules, method=QUANT_METHOD, pattern=structure or "unstructured")
    config.quantization_config = sparse.to_dict()
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    loaded = model_class.from_pretrained(None, config=config, state_dict=tensors, **options)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.name_or_path = str(folder)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return loaded


def _decode_all(
    stored: Mapping[str, Tensor], linears: Collection[str]
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Stored values of every sparse module, and the tensors of a sparse checkpoint of ours."""
    compressed: dict[str, dict[str, Tensor]] = {}
    modules: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if match := _PART.match(name):
            compressed.setdefault(match["module"], {})[match["part"]] = tensor
        else:
            tensors[name] = tensor
    for name, parts in compressed.items():
        shape, weight = _decode(name, parts)
        if name in linears:
            modules[name] = weight.nnz
            tensors[f"{name}.weight_bitmap"] = weight.bitmap
            tensors[f"{name}.weight_values"] = weight.values
        else:
            tensors[f"{name}.weight"] = weight.to_dense().view(shape)
    return modules, tensors


def _check_format(quantization: Mapping[str, Any]) -> None:
    """Raise SparseCheckpointError for what is not merely sparse."""
    sparsity = quantization.get("sparsity_config") or {}
    values = quantization.get("format") or "dense"
    if (
        quantization.get("config_groups")
        or quantization.get("kv_cache_scheme")
        or values != "dense"
    ):
        raise SparseCheckpointError(
            f"its weights are quantised by compressed-tensors (format {values}), which is not "
            "supported; take the model's unquantised checkpoint"
        )
    if sparsity.get("format") not in _SPARSE_FORMATS:
        raise SparseCheckpointError(
            f"its compressed-tensors sparsity format is {sparsity.get('format')!r}; supported are "
            f"{' and '.join(sorted(_SPARSE_FORMATS))}"
        )


def _read(files: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise SparseCheckpointError(
                f"{file} is cut off or no safetensors file ({error}); copy or download it again"
            ) from error
    return tensors


def _linear_names(config: PreTrainedConfig) -> set[str]:
    """The linear layers of the model but its output head, which is read dense."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linears = linear_modules(model).items()
    return {name for name, m in linears if is_dense_linear(m) and not is_tied(model, name)}


def _decode(name: str, parts: Mapping[str, Tensor]) -> tuple[list[int], BitmapWeight]:
    """The parameter's own shape, and its content as a matrix (a vector is a single row)."""
    if missing := sorted({"compressed", "bitmask", "shape"} - parts.keys()):
        raise SparseCheckpointError(
            f"{name}.{missing[0]} is missing from the checkpoint; download it again"
        )
    shape = [int(size) for size in parts["shape"].flatten()]
    rows, columns = shape if len(shape) == 2 else (1, shape[0])
    bitmask = parts["bitmask"].view(torch.uint8).reshape(rows, -1)
    try:
        weight = BitmapWeight((rows, columns), bitmask, parts["compressed"].flatten())
        weight.check()
    except SparseFormatError as error:
        raise SparseCheckpointError(f"{name}: {error}") from error
    return shape, weight
