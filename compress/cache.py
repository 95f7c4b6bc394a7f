"""GistCache: the keys and values that stand for a prompt, and what they belong to."""

import functools
import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch

from .errors import GistCacheError
from .tensor_file import (
    read_metadata,
    read_tensors,
    tensor_bytes,
    write_tensors,
    written_bytes,
)

FORMAT_VERSION = 1
FORMAT_NAME = "gistserve.gist_cache"

Method = Literal["gist", "prefix"]
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def hash_tokens(token_ids: Sequence[int]) -> str:
    """SHA-256, in hex, of token ids as little-endian 64-bit integers."""
    words = array("q", token_ids)
    return hashlib.sha256(words.tobytes()).hexdigest()


class LayerShape(NamedTuple):
    """Sizes of one layer's cache; value heads may be of another size than key heads."""

    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True)
class GistManifest:
    """What a gist cache is and what it belongs to.

    `slots` counts physical places in the KV cache, `next_position` is the logical position of
    the first token after the cache. Method "gist": the first `sink_tokens` of the prompt as the
    base model keeps them, then `gist_tokens` gist slots at positions `prompt_tokens` and up, so
    slots = sink_tokens + gist_tokens and next_position = prompt_tokens + gist_tokens. Method
    "prefix": every prompt token, so slots = next_position = prompt_tokens.

    `model_fingerprint` is that of `fingerprint.model_fingerprint`, with the adapter for a gist;
    `prompt_hash` that of `hash_tokens`. `layers` has one shape for each layer.
    Raises GistCacheError, with the field's name, for values that contradict each other.
    """

    method: Method
    model_fingerprint: str
    dtype: str
    slots: int
    sink_tokens: int
    gist_tokens: int
    prompt_tokens: int
    next_position: int
    prompt_hash: str
    layers: tuple[LayerShape, ...]
    format_version: int = FORMAT_VERSION

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    @property
    def ratio(self) -> float:
        """Compression ratio: prompt tokens a slot."""
        return self.prompt_tokens / self.slots

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise _field_error("format_version", self.format_version, FORMAT_VERSION)
        if self.method not in get_args(Method):
            raise _field_error("method", self.method, " or ".join(get_args(Method)))
        if self.dtype not in _DTYPES:
            raise _field_error("dtype", self.dtype, " or ".join(_DTYPES))
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self.prompt_tokens < 1:
            raise _field_error("prompt_tokens", self.prompt_tokens, "at least 1")
        if not self.layers:
            raise _field_error("layers", self.layers, "at least one layer")
        if self.method == "gist" and self.gist_tokens < 1:
            raise _field_error("gist_tokens", self.gist_tokens, "at least 1")
        if not 0 <= self.sink_tokens <= self.prompt_tokens:
            raise _field_error("sink_tokens", self.sink_tokens, f"0 to {self.prompt_tokens}")
        prefix = self.method == "prefix"
        expected = {
            "gist_tokens": 0 if prefix else self.gist_tokens,
            "sink_tokens": 0 if prefix else self.sink_tokens,
            "slots": self.prompt_tokens if prefix else self.sink_tokens + self.gist_tokens,
            "next_position": self.prompt_tokens + (0 if prefix else self.gist_tokens),
        }
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise _field_error(name, getattr(self, name), value)

    def verify(self, expect: Mapping[str, object]) -> None:
        """Raise GistCacheError for the first manifest field that differs from `expect`.

        `expect` maps names of fields (or "num_layers") to the values wanted; an unknown name is a
        ValueError.
        """
        for name, wanted in expect.items():
            if name not in {*_FIELDS, "num_layers"}:
                raise ValueError(f"a gist cache has no field {name!r}")
            found = getattr(self, name)
            if found != wanted:
                raise GistCacheError(
                    f"gist cache field {name} is {found!r}, expected {wanted!r}: it was made for "
                    "something else; make the cache again",
                    field=name,
                )

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`. Raises GistCacheError for anything else."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise GistCacheError(f"manifest is not JSON: {error}", field="manifest") from error
        if not isinstance(data, dict):
            raise GistCacheError("manifest is not a JSON object", field="manifest")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise _field_error("format_version", version, FORMAT_VERSION)
        for name, kind in _FIELDS.items():
            if type(data.get(name)) is not kind:
                raise _field_error(name, data.get(name), f"a value of type {kind.__name__}")
        if unknown := sorted(data.keys() - _FIELDS.keys()):
            raise GistCacheError(f"manifest has unknown field {unknown[0]!r}", field=unknown[0])
        return cls(**{**data, "layers": _layer_shapes(data["layers"])})


_FIELDS: dict[str, type] = {
    field.name: {"int": int, int: int, tuple[LayerShape, ...]: list}.get(field.type, str)
    for field in fields(GistManifest)
}


@dataclass(frozen=True, eq=False)
class GistCache:
    """Keys and values of every layer for a compressed (or whole) prompt.

    `keys[l]` is [slots, kv_heads, key_dim] and `values[l]` is [slots, kv_heads, value_dim], keys
    as rotated at their original positions, in the manifest's dtype, all on one device.
    Raises GistCacheError when tensors and manifest disagree.
    """

    manifest: GistManifest
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    def __post_init__(self) -> None:
        layers = self.manifest.num_layers
        for name, tensors in (("keys", self.keys), ("values", self.values)):
            if len(tensors) != layers:
                raise _field_error("num_layers", f"{len(tensors)} layers of {name}", layers)
        for name, tensor in self._named_tensors():
            _check_tensor(name, tensor, self.manifest)

    @classmethod
    def build(
        cls,
        *,
        method: Method,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        prompt_token_ids: Sequence[int],
        model_fingerprint: str,
        sink_tokens: int = 0,
        gist_tokens: int = 0,
    ) -> Self:
        """Make a cache for `prompt_token_ids` and derive its manifest from the tensors.

        `keys` and `values` as in the class; they may carry gradients and are not copied.
        `sink_tokens` and `gist_tokens` are for method "gist" alone.
        """
        if not keys or len(keys) != len(values):
            raise _field_error("num_layers", f"{len(keys)} keys, {len(values)} values", "as many")
        for tensor in (*keys, *values):
            if tensor.dim() != 3:
                raise _field_error("layers", list(tensor.shape), "[slots, kv_heads, head_dim]")
        manifest = GistManifest(
            method=method,
            model_fingerprint=model_fingerprint,
            dtype=str(keys[0].dtype).removeprefix("torch."),
            slots=keys[0].shape[0],
            sink_tokens=sink_tokens,
            gist_tokens=gist_tokens,
            prompt_tokens=len(prompt_token_ids),
            next_position=len(prompt_token_ids) + gist_tokens,
            prompt_hash=hash_tokens(prompt_token_ids),
            layers=tuple(
                LayerShape(key.shape[1], key.shape[2], value.shape[2])
                for key, value in zip(keys, values, strict=True)
            ),
        )
        return cls(manifest, tuple(keys), tuple(values))

    @property
    def slots(self) -> int:
        """Places that the cache takes in a sequence's KV cache."""
        return self.manifest.slots

    @property
    def next_position(self) -> int:
        """Logical position of the first token after the cache."""
        return self.manifest.next_position

    @property
    def ratio(self) -> float:
        """Compression ratio: prompt tokens a slot."""
        return self.manifest.ratio

    @property
    def num_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.numel() * t.element_size() for _, t in self._named_tensors())

    @property
    def uncompressed_bytes(self) -> int:
        """Bytes that the keys and values of the whole prompt would take."""
        return self.num_bytes // self.slots * self.manifest.prompt_tokens

    @functools.cached_property
    def content_hash(self) -> str:
        """SHA-256, in hex, over the manifest and every tensor's bytes."""
        digest = hashlib.sha256(self.manifest.to_json().encode())
        for _, tensor in self._named_tensors():
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()

    @property
    def file_bytes(self) -> int:
        """Bytes of the file that `save` writes."""
        return written_bytes(dict(self._named_tensors()), self._metadata())

    def to(self, device: torch.device | str) -> Self:
        """The same cache on another device."""
        return type(self)(
            self.manifest,
            tuple(key.to(device) for key in self.keys),
            tuple(value.to(device) for value in self.values),
        )

    def save(self, path: str | Path, *, private: bool = False) -> None:
        """Write the cache to one safetensors file, all or nothing, flushed to the disk.

        With `private` only its owner may read it; else the process's umask says who. Raises
        OSError when the file cannot be written, GistCacheError when the cache names no model (it
        could never be verified).
        """
        if not self.manifest.model_fingerprint:
            raise GistCacheError(
                "a gist cache without model_fingerprint cannot be saved; build it with the "
                "fingerprint of its model",
                field="model_fingerprint",
            )
        tensors = dict(self._named_tensors())
        write_tensors(Path(path), tensors, self._metadata(), private=private)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        expect: Mapping[str, object] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read a file that `save` wrote, verified down to every byte.

        `expect` maps manifest fields to the values that the caller needs, for instance
        `{"model_fingerprint": ..., "dtype": "bfloat16", "prompt_hash": ...}`.
        Raises OSError when the file cannot be read, and GistCacheError naming the field that
        differs, or saying that the file is truncated, corrupted or no gist cache.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            manifest = _manifest_of(metadata)
            manifest.verify(expect or {})
            cache = cls(manifest, *_split_layers(tensors, manifest.num_layers))
            if metadata.get("content_hash") != cache.content_hash:
                raise GistCacheError(
                    "content_hash does not match the contents: the file is corrupted; make the "
                    "cache again",
                    field="content_hash",
                )
        except GistCacheError as error:
            raise GistCacheError(f"{path}: {error}", field=error.field) from error
        return cache if torch.device(device).type == "cpu" else cache.to(device)

    def _metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT_NAME,
            "manifest": self.manifest.to_json(),
            "content_hash": self.content_hash,
        }

    def _named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            yield f"layers.{layer}.key", key
            yield f"layers.{layer}.value", value


def _field_error(name: str, found: object, wanted: object) -> GistCacheError:
    return GistCacheError(f"gist cache field {name} is {found!r}, expected {wanted!r}", field=name)


def read_manifest(path: str | Path) -> tuple[GistManifest, str]:
    """Manifest and content hash that a cache file claims; its tensors are not read.

    Notices a truncated file but not a changed one. Raises as `GistCache.load`.
    """
    metadata = read_metadata(Path(path))
    return _manifest_of(metadata), metadata.get("content_hash", "")


def _manifest_of(metadata: Mapping[str, str]) -> GistManifest:
    if metadata.get("format") != FORMAT_NAME:
        found = metadata.get("format")
        raise GistCacheError(f"not a gist cache (format {found!r})", field="format")
    return GistManifest.from_json(metadata.get("manifest", ""))


def _layer_shapes(data: list[Any]) -> tuple[LayerShape, ...]:
    for shape in data:
        if not isinstance(shape, list) or [type(size) for size in shape] != [int, int, int]:
            raise _field_error("layers", shape, "[kv_heads, key_dim, value_dim]")
    return tuple(LayerShape(*shape) for shape in data)


def _check_tensor(name: str, tensor: torch.Tensor, manifest: GistManifest) -> None:
    _, layer, kind = name.split(".")
    shape = manifest.layers[int(layer)]
    dim = shape.key_dim if kind == "key" else shape.value_dim
    wanted = (manifest.slots, shape.kv_heads, dim)
    if tuple(tensor.shape) != wanted:
        raise _field_error(f"{name}.shape", tuple(tensor.shape), wanted)
    if tensor.dtype != manifest.torch_dtype:
        raise _field_error(f"{name}.dtype", tensor.dtype, manifest.torch_dtype)


def _split_layers(
    tensors: dict[str, torch.Tensor], num_layers: int
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    names = [(f"layers.{layer}.key", f"layers.{layer}.value") for layer in range(num_layers)]
    wanted = {name for pair in names for name in pair}
    if differing := sorted(wanted ^ tensors.keys()):
        state = "missing" if differing[0] in wanted else "unexpected"
        raise GistCacheError(f"tensor {differing[0]} is {state}", field=differing[0])
    return tuple(tensors[key] for key, _ in names), tuple(tensors[value] for _, value in names)
