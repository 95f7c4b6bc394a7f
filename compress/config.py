"""What a gist adapter is: its size, its LoRA, the model it was trained for, and how it did."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import GistError

FORMAT_VERSION = 1
CONFIG_NAME = "gist_config.json"


class GistAdapterError(GistError, ValueError):
    """A gist adapter (or its folder) that cannot be used; the message names the cause."""


@dataclass
class GistConfig:
    """Contents of `gist_config.json`.

    A compressed prompt occupies `sink_tokens + num_gist_tokens` slots of the KV cache. The LoRA of
    rank `lora_rank` (0: none, only the gist embeddings are learned) has the scale
    `lora_alpha / lora_rank` and sits on `target_modules`, a list of name endings (`q_proj`,
    `mlp.down_proj`) or `"all-linear"`: every linear layer but the output head and those that run
    behind the key/value cache. `training` holds facts of the training run, `metrics` for each arm
    of the evaluation (full, gist, ...) its measures.
    """

    num_gist_tokens: int = 8
    sink_tokens: int = 1
    lora_rank: int = 16
    lora_alpha: float = 32.0
    target_modules: list[str] | str = "all-linear"
    base_model: str = ""
    base_fingerprint: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise GistAdapterError(
                f"gist_config.json has format_version {self.format_version!r}; this version of "
                f"gistserve reads {FORMAT_VERSION}"
            )
        for name, least in (("num_gist_tokens", 1), ("sink_tokens", 0), ("lora_rank", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise GistAdapterError(f"{name} must be an integer >= {least}, got {value!r}")
        if not isinstance(self.lora_alpha, int | float) or not self.lora_alpha > 0:
            raise GistAdapterError(f"lora_alpha must be a number > 0, got {self.lora_alpha!r}")

    @property
    def slots(self) -> int:
        """Slots of the KV cache that a compressed prompt occupies."""
        return self.sink_tokens + self.num_gist_tokens

    def save(self, directory: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (directory / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "GistConfig":
        """Read `directory/gist_config.json`.

        Raises GistAdapterError when it is missing, is no JSON object, or holds unknown fields.
        """
        path = Path(directory) / CONFIG_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise GistAdapterError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise GistAdapterError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise GistAdapterError(f"{path} must hold a JSON object, not {type(data).__name__}")
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise GistAdapterError(f"{path} has unknown fields: {', '.join(unknown)}")
        return cls(**data)
