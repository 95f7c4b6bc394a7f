"""One YAML file to one dataclass, with errors that name the field and the remedy."""

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration file or value that cannot be used."""


def load_config(path: str | Path, kind: type[Config]) -> Config:
    """Read a YAML mapping into the dataclass `kind`.

    Values are checked against the fields' types (int, float, bool, str, Path, list, dict, Literal,
    None, nested dataclasses). Relative paths stay as written. Raises ConfigError for a file that
    cannot be read or parsed, an unknown or missing field, and a value of the wrong type or range.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        return from_mapping(kind, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def from_mapping(kind: type[Config], data: Any) -> Config:
    """Build the dataclass `kind` from a mapping, as `load_config` does."""
    if not isinstance(data, dict):
        raise ConfigError(f"expected a mapping of settings, got {_described(data)}")
    assert dataclasses.is_dataclass(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"unknown field {name!r}{hint}")
    for name, field in known.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and name not in data:
            raise ConfigError(f"the field {name} is missing")
    hints = typing.get_type_hints(kind)
    values = {name: _convert(name, value, hints[name]) for name, value in data.items()}
    try:
        return typing.cast(Config, kind(**values))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _convert(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return _convert_union(name, value, get_args(kind))
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise ConfigError(f"{name} must be {_named(kind)}, got {value!r}")
    if get_origin(kind) is list and isinstance(value, list):
        return [_convert(f"{name}[{i}]", item, get_args(kind)[0]) for i, item in enumerate(value)]
    if get_origin(kind) is dict and isinstance(value, dict):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_mapping(kind, value)
    if kind is float:
        return _number(name, value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ConfigError(f"{name} must be {_named(kind)}, got {_described(value)}")


def _convert_union(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        try:
            return _convert(name, value, kind)
        except ConfigError:
            continue
    wanted = " or ".join(_named(kind) for kind in kinds)
    raise ConfigError(f"{name} must be {wanted}, got {_described(value)}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):  # YAML 1.1 reads 2e-5, without a point, as text
        try:
            return float(value)
        except ValueError:
            pass
    raise ConfigError(f"{name} must be a number, got {_described(value)}")


def _named(kind: Any) -> str:
    if kind is type(None):
        return "null"
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    names = {float: "a number", int: "an integer", str: "text", bool: "true or false"}
    return names.get(kind) or {list: "a list", dict: "a mapping"}.get(
        get_origin(kind), getattr(kind, "__name__", str(kind))
    )


def _described(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
