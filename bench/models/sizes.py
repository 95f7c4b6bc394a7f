"""What the models take, on disk and in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...server.commands.model_source import ModelSource
from ..load.errors import LoadError

_WEIGHTS = ("*.safetensors", "*.bin")
_SIZES = ("weight_bytes", "kv_bytes_per_token", "dtype", "device")


def disk_bytes(source: ModelSource) -> int | None:
    """Bytes of the weight files in a model's folder; None where it is no folder here.

    Of a folder with both formats the first one counts, as it is what is loaded.
    """
    folder = Path(source.location).expanduser()
    for pattern in _WEIGHTS:
        if files := list(folder.glob(pattern)):
            return sum(file.stat().st_size for file in files)
    return None


def sizes(info: dict[str, Any] | None, sources: Iterable[ModelSource]) -> dict[str, dict[str, Any]]:
    """What each model takes, on disk and as the server's /server_info has it, by its name.

    Figures that no one tells are None.

    Raises:
        LoadError: the server tells of its models, but not of one of these.
    """
    told = {model["name"]: model for model in (info or {}).get("models", [])}
    found = {}
    for source in sources:
        if told and source.name not in told:
            raise LoadError(f"{source.name!r} is not served; there are {', '.join(told)}.")
        figures = told.get(source.name, {})
        found[source.name] = {"disk_bytes": disk_bytes(source)} | {
            name: figures.get(name) for name in _SIZES
        }
    return found
