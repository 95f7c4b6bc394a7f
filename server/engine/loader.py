"""From a name or path to a model and its tokenizer, or an error that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...compress.errors import GistError
from ...compress.sparse import sparse_modules
from ...compress.sparse.compressed_tensors import is_compressed_tensors, load_compressed_tensors
from ...kernels.sparse import DECODE_BATCH
from .errors import ModelLoadError, UnsupportedModelError
from .pooling import LAST_TOKEN, pooling_of

logger = logging.getLogger(__name__)


def load_model(
    name_or_path: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    decode_batch: int = DECODE_BATCH,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model in evaluation mode, with its tokenizer.

    Safetensors only, and no code from the repository: a model folder cannot run anything here.
    A model that was made for embeddings needs no head; it gets its input embeddings for one.
    Sparse checkpoints of gistserve, and of compressed-tensors where they are not quantised, become
    sparse linear layers, made ready for the device.
    transformers shows its progress bar while the weights load, unless the program has turned
    progress bars off.

    Args:
        name_or_path: a folder, or a repository's name on the Hugging Face hub.
        dtype: of the weights; None takes the one they are stored in.
        device: None takes the first CUDA device, or the CPU where there is none.
        decode_batch: sequences of the decode steps that sparse layers shall be fast for.

    Raises:
        ModelLoadError: there is no such model, it is not readable or not complete, or the device
            is not there.
        UnsupportedModelError: no causal language model of transformers is of its kind.
    """
    place = _device(device)
    source = _source(name_or_path)
    config = _call(source, "configuration", AutoConfig.from_pretrained, source)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModelError(
            f"{source}: {type(config).__name__} belongs to no causal language model of "
            f"transformers {transformers.__version__}; serve a decoder-only text model"
        )
    tokenizer = _call(source, "tokenizer", AutoTokenizer.from_pretrained, source)
    model, report = _load(
        source,
        config,
        dtype="auto" if dtype is None else dtype,
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        _complete(source, model, report["missing_keys"])
    logger.info("loaded %s: %s, %s, on %s", source, type(model).__name__, model.dtype, place)
    _call(source, "weights", model.eval().to, place)
    for module in sparse_modules(model).values():
        _call(source, "weights", module.prepare, decode_batch)
    return model, tokenizer


def _complete(source: str, model: PreTrainedModel, missing: Collection[str]) -> None:
    """Supplies the head of an embedding model; a ModelLoadError for whatever else is missing."""
    head = model.get_output_embeddings()
    of_head = {name for name, weight in model.named_parameters() if weight is head.weight}
    if of_head.issuperset(missing) and pooling_of(source) == LAST_TOKEN:
        head.weight = model.get_input_embeddings().weight
        return
    raise ModelLoadError(
        f"{source}: {len(missing)} tensors are missing from its weights, {min(missing)!r} among "
        "them; download the model again"
    )


def _load(source: str, config: PreTrainedConfig, **options: Any) -> Any:
    if not is_compressed_tensors(config):
        return _call(source, "weights", AutoModelForCausalLM.from_pretrained, source, **options)
    folder = source
    if not Path(source).is_dir():
        patterns = ["*.json", "*.safetensors"]
        folder = _call(source, "weights", snapshot_download, source, allow_patterns=patterns)
    return _call(source, "weights", load_compressed_tensors, Path(folder), config, **options)


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelLoadError(
            f"device {str(device)!r} cannot be used ({reason}); choose cpu, or a device that this "
            "build of torch supports"
        ) from error
    return place


def _source(name_or_path: str | Path) -> str:
    """The name as transformers wants it; a ModelLoadError if it is a path and nothing is there."""
    source = str(name_or_path)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(
                f"{source} holds no config.json; give the folder that save_pretrained wrote"
            )
        return str(path)
    if path.exists():
        raise ModelLoadError(f"{source} is a file; give the folder that it lies in")
    looks_like_path = isinstance(name_or_path, Path) or source.startswith((".", "/", "~"))
    if looks_like_path or source.count("/") > 1:
        raise ModelLoadError(f"{source} does not exist; give a model folder or a name on the hub")
    return source


def _call(source: str, what: str, load: Any, *args: Any, **options: Any) -> Any:
    """Call transformers, and turn what it raises into one line that names the model."""
    try:
        return load(*args, **options)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{source} does not fit the device's memory; choose another dtype or device"
        ) from error
    except GistError as error:
        raise ModelLoadError(f"cannot load the {what} of {source}: {error}") from error
    except Exception as error:
        raise ModelLoadError(f"cannot load the {what} of {source}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError | ConnectionError):
            return (
                "it is not a folder here, and the Hugging Face hub cannot be reached; check the "
                "name and the network, or give a local folder"
            )
        if isinstance(cause, HfHubHTTPError):
            return str(cause).splitlines()[0]
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
