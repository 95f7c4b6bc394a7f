"""Fingerprints: which weights, tokenizer, template, RoPE and adapter a cache was made with.

A fingerprint is one line, `v1:weights=…,config=…,rope=…,tokenizer=…,chat_template=…,adapter=…`,
with 64 bits of SHA-256 (or `none`) for each part, so that a mismatch can say what differs. It
guards against mix-ups, not against forgers.

What does not count: the transformers version, names and paths, special-token ids and label names,
dropout, the dtype a model is *loaded* in. The dtype of the weights as stored does count; the one
computed in is a field of every cache.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .adapter import GistAdapter
from .errors import FingerprintError
from .sparse.config import QUANT_METHOD as SPARSE_METHOD
from .weights_hash import hash_tensors, hash_weight_files, weights_hash

_VERSION = "v1"
_NONE = "none"
_PARTS = ("weights", "config", "rope", "tokenizer", "chat_template", "adapter")
_ROPE_FIELDS = {
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_emb_base",
    "max_position_embeddings",
    "original_max_position_embeddings",
}
_IRRELEVANT_FIELDS = {
    "architectures",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_IRRELEVANT_ENDINGS = ("_token_id", "dropout", "_pdrop")
_PROBE = "Probe 123, ünïcode 漢字\n  spaces"


def model_fingerprint(
    model: PreTrainedModel,
    tokenizer: Any = None,
    adapter: GistAdapter | None = None,
    *,
    source: str | Path | None = None,
) -> str:
    """Fingerprint of a model with its tokenizer and, for gist caches, its adapter.

    Give `source`, the folder or hub name the weights were loaded from, for a model that has not
    been changed since: its files are hashed instead of the tensors in memory, so the result is
    the same for every dtype the model is loaded in, and it is remembered by the files' path, size
    and times. For a model loaded in the dtype of its files both ways agree, unless transformers
    renames or merges tensors when it loads them (mixtures of experts).
    Raises FingerprintError when weights cannot be read (meta tensors, missing files).
    """
    config = _without_storage(model.config.to_dict())
    weights = weights_hash(model) if source is None else hash_weight_files(source)
    return _join(
        {
            "weights": weights[:16],
            "config": _digest([type(model).__name__, _relevant(config)]),
            "rope": _digest(_pick(config, _ROPE_FIELDS)),
            "tokenizer": _NONE if tokenizer is None else _digest(_tokenizer_content(tokenizer)),
            "chat_template": _template_digest(tokenizer),
            "adapter": _adapter_digest(adapter),
        }
    )


def with_adapter(fingerprint: str, adapter: GistAdapter | None) -> str:
    """`fingerprint` with its adapter part replaced; None gives the base model's fingerprint."""
    return _join({**_split(fingerprint), "adapter": _adapter_digest(adapter)})


def differing_parts(left: str, right: str) -> list[str]:
    """Names of the parts in which two fingerprints differ; all of them if one is malformed."""
    try:
        a, b = _split(left), _split(right)
    except FingerprintError:
        return [] if left == right else list(_PARTS)
    return [part for part in _PARTS if a[part] != b[part]]


def _join(parts: Mapping[str, str]) -> str:
    return f"{_VERSION}:" + ",".join(f"{part}={parts[part]}" for part in _PARTS)


def _split(fingerprint: str) -> dict[str, str]:
    version, _, rest = fingerprint.partition(":")
    pairs = [item.partition("=")[::2] for item in rest.split(",")]
    if version != _VERSION or tuple(name for name, _ in pairs) != _PARTS:
        raise FingerprintError(f"not a model fingerprint of version {_VERSION}: {fingerprint!r}")
    return dict(pairs)


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that shape a forward pass.

    Fields that are None, False or empty say "not used": leaving them out keeps fingerprints
    stable when a newer transformers adds such a field to a model's configuration.
    """
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if name.startswith("_") or name in _IRRELEVANT_FIELDS | _ROPE_FIELDS:
            continue
        if name.endswith(_IRRELEVANT_ENDINGS):
            continue
        if isinstance(value, Mapping):
            value = _relevant(value)
        if value is None or value is False or value == {} or value == []:
            continue
        kept[name] = value
    return kept


def _without_storage(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a sparse checkpoint says about its making; which weights are zero is hashed."""
    quantization = config.get("quantization_config") or {}
    ours = quantization.get("quant_method") == SPARSE_METHOD
    return {k: v for k, v in config.items() if not (ours and k == "quantization_config")}


def _pick(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields called `names`, also in nested configurations, without those that are None."""
    picked: dict[str, Any] = {}
    for name, value in config.items():
        if name in names:
            if value is not None:
                picked[name] = value
        elif isinstance(value, Mapping) and (inner := _pick(value, names)):
            picked[name] = inner
    return picked


def _tokenizer_content(tokenizer: Any) -> object:
    """Everything that turns text into ids; padding and truncation are a caller's choice."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    probe = tokenizer.encode(_PROBE)
    if backend is None:
        return [type(tokenizer).__name__, tokenizer.get_vocab(), probe]
    content = json.loads(backend.to_str())
    content.pop("padding", None)
    content.pop("truncation", None)
    return [content, probe]


def _template_digest(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    return _digest(template) if template else _NONE


def _adapter_digest(adapter: GistAdapter | None) -> str:
    if adapter is None:
        return _NONE
    tensors: dict[str, Any] = {"gist_embeddings": adapter.gist_embeddings}
    scales = {}
    for lora in adapter.loras:
        tensors |= {f"{lora.site}.A": lora.a, f"{lora.site}.B": lora.b}
        scales[lora.site] = lora.scale
    return _digest([adapter.config.sink_tokens, scales, hash_tensors(tensors)])
