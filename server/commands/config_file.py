"""`--config`: options from a YAML file, where neither a flag nor the environment gives them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from .nearest import unknown_name
from .terminal import fail

_NOT_IN_FILES = ("config", "help")


def use_config_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options; ends it for a wrong one.

    Call it for an eager option, before the others take their defaults.
    """
    if path is not None:
        options = {
            str(option.name): option
            for option in context.command.params
            if option.name not in _NOT_IN_FILES
        }
        defaults = {}
        for key, value in read_config(path).items():
            name = key.replace("-", "_")
            if name not in options:
                fail(f"{path}: there is no option {unknown_name(key, options)}", code=2)
            if value is not None:
                defaults[name] = _checked(context, options[name], value, f"{path}: {key}")
        context.default_map = defaults
    return path


def read_config(path: Path) -> dict[str, Any]:
    """The file's mapping of options; ends the command where it holds none."""
    import yaml

    from .unique_keys import UniqueKeyLoader

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", code=2)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"{path} is not valid YAML: {error}", code=2)
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        fail(f"{path} holds no mapping of options, such as `port: 9000`", code=2)
    return {str(key): value for key, value in values.items()}


def _checked(context: typer.Context, option: Any, value: Any, where: str) -> Any:
    """The value as the command line would give it, tried on the option's own type."""
    written = [_written(item) for item in value] if isinstance(value, list) else _written(value)
    if option.multiple and not isinstance(written, list):
        written = [written]
    if isinstance(written, list) and not option.multiple:
        fail(f"{where} takes one value, not a list", code=2)
    try:
        option.process_value(context, written)
    except typer.BadParameter as error:
        # Newer versions of Typer do not name the value that they refuse.
        fail(f"{where} cannot be {value!r}: {error.message}", code=2)
    return written


def _written(value: Any) -> str:
    """A YAML value as one would write it on the command line, so that all mean the same."""
    return json.dumps(value) if isinstance(value, dict) else str(value)
