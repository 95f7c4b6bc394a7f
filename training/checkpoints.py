"""The checkpoints of a run of transformers' Trainer, and which of them it goes on from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .config import ConfigError

CHECKPOINTS = "checkpoints"
RUN_CONFIG = "training_config.json"


class RunConfig(Protocol):
    """A dataclass of settings that tells which of them a resumed run must not change."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def differences(self, other: dict[str, Any]) -> list[str]: ...


def checkpoint_to_resume(config: RunConfig, output: Path, resume: bool) -> str | None:
    """The newest whole checkpoint under `output`, or None for a new run.

    One that a kill cut off while it was written is passed over. Raises ConfigError for what would
    overwrite a run or mix two.
    """
    folder = output / CHECKPOINTS
    last = newest_checkpoint(output)
    if not resume:
        if last is not None:
            raise ConfigError(
                f"{folder} holds checkpoints of an earlier run: resume it, or choose another "
                "output_dir"
            )
        return None
    if last is None:
        raise ConfigError(f"there is no checkpoint under {folder} to resume from")
    check_same_settings(config, output)
    return last


def check_same_settings(config: RunConfig, output: Path) -> None:
    """Raise ConfigError unless `config` is what the run under `output` was started with."""
    folder = output / CHECKPOINTS
    differing = config.differences(json.loads((folder / RUN_CONFIG).read_text(encoding="utf-8")))
    if differing:
        raise ConfigError(
            f"the run under {folder} was started with other settings: {', '.join(differing)}; "
            "restore them, or begin a new run in another output_dir"
        )


def newest_checkpoint(output: Path) -> str | None:
    """The newest checkpoint under `output` that is whole, None where there is none."""
    folder = output / CHECKPOINTS
    numbered = {
        int(path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")): path
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdecimal()
    }
    whole = (path for _, path in sorted(numbered.items(), reverse=True) if _is_whole(path))
    return next(map(str, whole), None)


def _is_whole(checkpoint: Path) -> bool:
    """The Trainer writes its state last; half of it is no JSON."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_run_config(config: RunConfig, output: Path) -> None:
    """Record the settings beside the checkpoints. ConfigError where `output` cannot be written."""
    folder = output / CHECKPOINTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_CONFIG).write_text(json.dumps(asdict(config), indent=2), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output_dir: {output} cannot be written: {error.strerror}") from error
