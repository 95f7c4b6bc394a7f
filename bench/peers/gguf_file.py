"""A model of Llama's architecture as a GGUF file, for llama.cpp.

The names and the order of rows are those of llama.cpp's own convert_hf_to_gguf.py, which knows
other architectures too, but only tokenizers of published models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from ..load.errors import LoadError
from .gguf_tokenizer import add_tokenizer

_ARCHITECTURE = gguf.MODEL_ARCH.LLAMA
_FORMATS = {
    torch.float32: (GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    torch.bfloat16: (GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}


def write_gguf(folder: Path, path: Path, dtype: torch.dtype) -> None:
    """Write the model and tokenizer in `folder` to `path`.

    Matrices are stored as `dtype` (float32 or bfloat16), vectors as float32, which is all that
    llama.cpp computes with.

    Raises:
        LoadError: the model or its tokenizer is of a kind that only llama.cpp's converter knows.
    """
    config = AutoConfig.from_pretrained(folder)
    _check(config)
    matrix_format, file_type = _FORMATS[dtype]
    # Large models go through a temporary file instead of memory.
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURE], use_temp_file=True)
    try:
        writer.add_file_type(file_type)
        _add_sizes(writer, config)
        add_tokenizer(writer, folder, config.vocab_size)
        names = gguf.get_tensor_name_map(_ARCHITECTURE, config.num_hidden_layers)
        for name, tensor in _weights(folder):
            theirs = names.get_name(name, try_suffixes=(".weight",))
            if theirs is None:
                raise LoadError(f"{name} is no weight of a Llama model; {_REMEDY}")
            rows = _reordered(name, tensor, config).float().numpy()
            kind = matrix_format if tensor.ndim > 1 else GGMLQuantizationType.F32
            writer.add_tensor(theirs, _stored(rows, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


_REMEDY = "convert the model with llama.cpp's convert_hf_to_gguf.py and give the file as --gguf."


def _check(config: PreTrainedConfig) -> None:
    if config.model_type != "llama":
        raise LoadError(
            f"Only Llama models are written as GGUF, not {config.model_type}; {_REMEDY}"
        )
    if (rope := config.rope_parameters["rope_type"]) != "default":
        raise LoadError(f"Rotary embeddings of type {rope} are not written as GGUF; {_REMEDY}")


def _add_sizes(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor in the folder's safetensors files, one at a time.

    Raises:
        LoadError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise LoadError(f"{folder} holds no safetensors file; {_REMEDY}")
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                yield name, weights.get_tensor(name)


def _reordered(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    """Rows of queries and keys as Meta's rotary embedding has them, which llama.cpp computes.

    It turns neighbouring rows of a head together; transformers one of the first half with one of
    the second.
    """
    if name.endswith("q_proj.weight"):
        heads = config.num_attention_heads
    elif name.endswith("k_proj.weight"):
        heads = config.num_key_value_heads
    else:
        return tensor
    halves = tensor.reshape(heads, 2, config.head_dim // 2, -1)
    return halves.transpose(1, 2).reshape(tensor.shape)


def _stored(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The bytes of float32 values as GGUF stores them; bfloat16 values are kept exactly."""
    return rows if kind is GGMLQuantizationType.F32 else gguf.quants.quantize(rows, kind)
