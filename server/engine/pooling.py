"""How a model wants its embeddings made, as sentence-transformers' files beside it tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from .errors import ModelLoadError

LAST_TOKEN = "last"
"""The last token's state behind the final norm."""

_MODES = {"lasttoken": LAST_TOKEN, "pooling_mode_lasttoken": LAST_TOKEN}


def pooling_of(source: str | Path) -> str | None:
    """How the embeddings of a model are made of its final hidden states.

    Args:
        source: a model's folder, or its name on the Hugging Face hub.

    Returns:
        ``LAST_TOKEN``; a description of what is not done here; None for a model that was not made
        for embeddings.

    Raises:
        ModelLoadError: a file that cannot be read.
    """
    modules = _read(str(source), "modules.json")
    if modules is None:
        return None
    try:
        kinds = {str(module["type"]).rpartition(".")[2]: module["path"] for module in modules}
    except (TypeError, KeyError) as error:
        raise ModelLoadError(f"{source}: its modules.json is no list of modules") from error
    more = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if more:
        return f"the layers {', '.join(sorted(more))}"
    pooling = _read(str(source), f"{kinds.get('Pooling', '1_Pooling')}/config.json")
    return _mode(pooling) if isinstance(pooling, Mapping) else "pooling that it does not describe"


def _mode(pooling: Mapping[str, Any]) -> str:
    """Of a pooling module's settings: one named mode, or a flag for each."""
    named = pooling.get("pooling_mode")
    given = named if isinstance(named, list) else [named] if named else []
    modes = given or [key for key, on in pooling.items() if key.startswith("pooling_mode") and on]
    if len(modes) == 1 and str(modes[0]) in _MODES:
        return _MODES[str(modes[0])]
    names = [str(mode).removeprefix("pooling_mode_") for mode in modes]
    return f"pooling by {' and '.join(names) or 'nothing'}"


def _read(source: str, name: str) -> Any:
    """A JSON file of a model; None where there is none."""
    path = Path(source).expanduser() / name
    try:
        if not Path(source).expanduser().is_dir():
            path = Path(hf_hub_download(source, name))
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
        return None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{source}: its {name} cannot be read: {error}") from error
