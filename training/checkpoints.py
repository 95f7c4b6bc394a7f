"""The checkpoints of a run of transformers' Trainer, and which of them it goes on from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from transformers.trainer_utils import get_last_checkpoint

from .config import ConfigError

CHECKPOINTS = "checkpoints"
RUN_CONFIG = "training_config.json"


class RunConfig(Protocol):
    """A dataclass of settings that tells which of them a resumed run must not change."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def differences(self, other: dict[str, Any]) -> list[str]: ...


def checkpoint_to_resume(config: RunConfig, output: Path, resume: bool) -> str | None:
    """The newest checkpoint under `output`, or None for a new run.

    Raises ConfigError for what would overwrite a run or mix two.
    """
    folder = output / CHECKPOINTS
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if not resume:
        if last is not None:
            raise ConfigError(
                f"{folder} holds checkpoints of an earlier run: resume it, or choose another "
                "output_dir"
            )
        return None
    if last is None:
        raise ConfigError(f"there is no checkpoint under {folder} to resume from")
    differing = config.differences(json.loads((folder / RUN_CONFIG).read_text(encoding="utf-8")))
    if differing:
        raise ConfigError(
            f"the run under {folder} was started with other settings: {', '.join(differing)}; "
            "restore them, or begin a new run in another output_dir"
        )
    return last


def write_run_config(config: RunConfig, output: Path) -> None:
    """Record the settings beside the checkpoints. ConfigError where `output` cannot be written."""
    folder = output / CHECKPOINTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_CONFIG).write_text(json.dumps(asdict(config), indent=2), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output_dir: {output} cannot be written: {error.strerror}") from error
