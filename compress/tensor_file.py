"""Tensors with text metadata in one safetensors file, written without a copy in memory.

The format (https://huggingface.co/docs/safetensors, "Format"): eight bytes with the header's
length, a JSON header, the tensors' bytes. Reading is left to the safetensors library.
"""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .atomic import write_atomic
from .errors import GistCacheError

_DTYPE_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def dtype_code(dtype: torch.dtype) -> str:
    """The safetensors name of a dtype; torch's own where safetensors has none."""
    return _DTYPE_CODES.get(dtype, str(dtype))


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The elements of `tensor` in row-major order; no copy where it lies so in CPU memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    private: bool = False,
) -> None:
    """Write `tensors` (floating point, any device) and `metadata` to `path`, all or nothing.

    `private` and OSError as of `write_atomic`.
    """
    write_atomic(path, _chunks(tensors, metadata), private=private)


def written_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that `write_tensors` makes."""
    elements = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return len(_header(tensors, metadata)) + elements


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read every tensor (CPU, memory of its own) and the metadata of a safetensors file.

    Raises OSError when the file cannot be read (EAGAIN: for want of memory or file handles), and
    GistCacheError when it is truncated or no safetensors file.
    """
    with _opened(path) as file:
        # A file mapped into memory could change, or vanish, under the engine.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose length is checked; errors as `read_tensors`."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # safe_open reports every failure to open as FileNotFoundError, "too many open files" too.
    path.open("rb").close()
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise GistCacheError(
            f"{path} is truncated or not a safetensors file ({error}); make the cache again",
            field="header",
        ) from error
    except (OSError, RuntimeError) as error:
        raise OSError(errno.EAGAIN, f"cannot be read now ({error})", str(path)) from error


def _chunks(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    yield _header(tensors, metadata)
    for tensor in tensors.values():
        yield tensor_bytes(tensor)


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """All that stands in front of the tensors' bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtype_code(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
