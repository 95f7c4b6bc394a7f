"""SHA-256 over a model's weights, in memory or in their files.

Both hash a table of (name, dtype, shape, SHA-256 of the bytes), sorted by name, so the result
depends neither on the order of the tensors nor on how they are spread over files.
"""

import hashlib
import json
import mmap
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import nn

from .atomic import write_atomic
from .errors import FingerprintError
from .tensor_file import dtype_code, tensor_bytes

_CHUNK_ELEMENTS = 2**24
_WORKERS = min(4, os.cpu_count() or 1)
_RACY_SECONDS = 2.0

Row = tuple[str, str, list[int], str]  # name, dtype, shape, SHA-256


def weights_hash(module: nn.Module) -> str:
    """SHA-256, in hex, of every parameter and persistent buffer of `module`, to the last bit.

    Two calls give the same value exactly if no weight has changed in between, on whatever device
    it lies. Tied weights count once, under their first name. Raises FingerprintError for weights
    without data (meta device) or without plain bytes.
    """
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """`weights_hash` of named tensors; one that appears twice counts under its first name."""
    seen: set[tuple[object, ...]] = set()
    jobs: list[Callable[[], Row]] = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            continue  # a module's extra state is no weight
        if tensor.is_meta:
            raise FingerprintError(f"weight {name} has no data (meta device); load it first")
        if tensor.is_mkldnn:
            tensor = tensor.to_dense()
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        jobs.append(lambda name=name, tensor=tensor: _tensor_row(name, tensor))  # type: ignore[misc]
    return _hash_rows(jobs)


def hash_weight_files(source: str | Path, *, cache_directory: Path | None = None) -> str:
    """`weights_hash` of the weights in a model folder (or hub name, already downloaded).

    The result is kept under `cache_directory` (default: the user's cache directory) and reused
    while path, size, inode and times of every file are the same. Raises FingerprintError when
    there are no weight files or one cannot be read.
    """
    files = weight_files(source)
    try:
        stamp = [_stamp(file) for file in files]
        directory = cache_directory or user_cache_path("gistserve") / "fingerprints"
        memory = directory / f"{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()}.json"
        if (known := _recall(memory)) is not None:
            return known
        result = _hash_files(files)
        if [_stamp(file) for file in files] != stamp:
            raise FingerprintError(f"the weight files of {source} changed while they were read")
    except OSError as error:
        raise FingerprintError(f"cannot read the weights of {source}: {error}") from error
    if all(time.time() - max(mtime, ctime) / 1e9 > _RACY_SECONDS for *_, mtime, ctime in stamp):
        _remember(memory, result)
    return result


def weight_files(source: str | Path) -> list[Path]:
    """The files that hold the weights of a model folder or downloaded hub model, sorted.

    Raises FingerprintError when there is no such folder or it has no weights.
    """
    folder = _model_folder(source)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FingerprintError(f"{index} is broken: {error}; download it again") from error
        return sorted(folder / name for name in set(names))
    for pattern in ("model.safetensors", "*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise FingerprintError(f"{folder} holds no weights (model.safetensors)")


def _model_folder(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(str(source), "config.json", local_files_only=True)
    except (OSError, ValueError) as error:
        raise FingerprintError(f"{source} is neither a folder nor a downloaded model") from error
    if config is None:
        raise FingerprintError(f"{source} is neither a folder nor a downloaded model")
    return Path(config).parent


def _tensor_row(name: str, tensor: torch.Tensor) -> Row:
    digest = hashlib.sha256()
    try:
        for chunk in tensor.detach().reshape(-1).split(_CHUNK_ELEMENTS):
            digest.update(tensor_bytes(chunk))
    except (RuntimeError, NotImplementedError) as error:
        raise FingerprintError(f"weight {name} has no plain bytes: {error}") from error
    return name, dtype_code(tensor.dtype), list(tensor.shape), digest.hexdigest()


def _hash_files(files: Iterable[Path]) -> str:
    jobs: list[Callable[[], Row]] = []
    for file in files:
        if file.suffix == ".safetensors":
            jobs.extend(_safetensors_jobs(file))
        else:
            jobs.append(lambda file=file: _whole_file_row(file))  # type: ignore[misc]
    return _hash_rows(jobs)


def _safetensors_jobs(file: Path) -> list[Callable[[], Row]]:
    try:
        with file.open("rb") as handle:
            view = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        start = 8 + int.from_bytes(view[:8], "little")
        header = json.loads(bytes(view[8:start]))
        header.pop("__metadata__", None)
        entries = [(n, e["dtype"], e["shape"], e["data_offsets"]) for n, e in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FingerprintError(f"{file} is not a safetensors file: {error}") from error

    def row(name: str, dtype: str, shape: list[int], begin: int, end: int) -> Row:
        data = view[start + begin : start + end]
        if len(data) != end - begin:
            raise FingerprintError(f"{file} is truncated in {name}; download it again")
        return name, dtype, shape, hashlib.sha256(data).hexdigest()

    return [
        lambda entry=(name, dtype, shape, *offsets): row(*entry)  # type: ignore[misc]
        for name, dtype, shape, offsets in entries
    ]


def _whole_file_row(file: Path) -> Row:
    with file.open("rb") as handle:
        return file.name, "file", [], hashlib.file_digest(handle, "sha256").hexdigest()


def _hash_rows(jobs: list[Callable[[], Row]]) -> str:
    with ThreadPoolExecutor(_WORKERS) as pool:
        rows = sorted(pool.map(lambda job: job(), jobs))
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def _stamp(file: Path) -> tuple[str, int, int, int, int]:
    status = file.stat()
    return (
        str(file.resolve()),
        status.st_size,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _recall(memory: Path) -> str | None:
    try:
        value = json.loads(memory.read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) and len(value) == 64 else None


def _remember(memory: Path, value: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, [json.dumps({"weights": value}).encode()], durable=False)
    except OSError:
        return  # a cache that cannot be written only costs time
