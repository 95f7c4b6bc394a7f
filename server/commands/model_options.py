"""What can be set for one of several served models."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .model_source import ModelSource, parse_source
from .nearest import unknown_name


class Dtype(StrEnum):
    """Number format of weights and KV cache; `auto` takes the checkpoint's own."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model to serve; what is None is as for all models.

    source: its name and where it is loaded from; gist_adapter: folder of its adapter;
    kv_share: its part of the memory for keys and values, above 0 and at most 1.
    """

    source: ModelSource
    gist_adapter: Path | None = None
    dtype: Dtype | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    kv_share: float | None = None


def parse_model(text: str) -> ModelOptions:
    """`[NAME=]PATH`, or a JSON object with `path` and further options of the model.

    Raises ValueError for what names no model, and for an option that is unknown or cannot be used.
    """
    if not text.lstrip().startswith("{"):
        return ModelOptions(source=parse_source(text))
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not valid JSON ({error})") from error
    return model_from_mapping(values)


def model_from_mapping(values: Mapping[str, Any]) -> ModelOptions:
    """The model that a mapping describes. Raises ValueError as `parse_model`."""
    for key in values:
        if key not in ("name", "path", *_PARSERS):
            known = ["name", "path", *_PARSERS]
            raise ValueError(f"a model has no option {unknown_name(str(key), known)}")
    if not values.get("path"):
        raise ValueError(f"the model {dict(values)} needs a path: a folder or a hub name")
    path, name = str(values["path"]), values.get("name")
    source = parse_source(path if name is None else f"{name}={path}")
    options = {}
    for key, parse in _PARSERS.items():
        if values.get(key) is not None:
            options[key] = _parsed(source.name, key, values[key], parse)
    return ModelOptions(source=source, **options)


def _parsed(name: str, key: str, value: Any, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(str(value))
    except ValueError as error:
        raise ValueError(f"{key} of model {name} must be {_WANTED[key]}, not {value!r}") from error


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError
    return share


_PARSERS: dict[str, Callable[[str], Any]] = {
    "gist_adapter": Path,
    "dtype": Dtype,
    "max_model_len": _count,
    "max_num_seqs": _count,
    "kv_share": _share,
}
_WANTED = {
    "dtype": "one of " + ", ".join(Dtype),
    "max_model_len": "a positive integer",
    "max_num_seqs": "a positive integer",
    "kv_share": "a part of the whole, above 0 and at most 1",
}
