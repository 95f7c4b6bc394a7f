"""Checkpoints of a running stage: all that is needed to go on exactly, whole or not there."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ...compress.atomic import sync_directory, write_atomic
from ..config import ConfigError
from .config import ContinualConfig
from .stage import Start

PROGRESS = "progress.json"
RUN_RECORD = "run.json"
_PREFIX = "checkpoint-"


@dataclass
class Progress:
    """Where a stage stands. `step` alone gives data position and schedule phase."""

    step: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The checkpoints in a folder, the `keep` newest of them."""

    def __init__(self, folder: Path, accelerator: Accelerator, keep: int) -> None:
        self._folder = folder
        self._accelerator = accelerator
        self._keep = keep

    def save(self, progress: Progress) -> None:
        """Write weights, optimizer and random state under a temporary name, then rename it."""
        final = self._folder / f"{_PREFIX}{progress.step}"
        temporary = self._folder / f"{final.name}.tmp"
        main = self._accelerator.is_main_process
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(temporary))
        self._accelerator.wait_for_everyone()
        if main:
            write_atomic(temporary / PROGRESS, [json.dumps(asdict(progress)).encode()])
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            sync_directory(self._folder)
            for old in saved_checkpoints(self._folder)[: -self._keep]:
                shutil.rmtree(old)
        self._accelerator.wait_for_everyone()

    def restore(self, checkpoint: Path) -> Progress:
        """Load a checkpoint into what the accelerator prepared. ConfigError if it is damaged."""
        try:
            progress = Progress(**json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))
            self._accelerator.load_state(str(checkpoint))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(
                f"{checkpoint} cannot be resumed from: {error}; delete it to resume from the one "
                "before"
            ) from error
        return progress


def saved_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [
        path
        for path in folder.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def checkpoint_to_resume(folder: Path, config: ContinualConfig, resume: bool) -> Path | None:
    """The newest checkpoint, None for a new stage.

    ConfigError for what would overwrite or mix stages.
    """
    saved = saved_checkpoints(folder)
    if not resume:
        if saved:
            raise ConfigError(
                f"{folder} holds checkpoints of an earlier run: resume it, or choose another "
                "output_dir"
            )
        return None
    if not saved:
        raise ConfigError(f"there is no checkpoint under {folder} to resume from")
    differing = config.differences(_recorded(folder)["config"])
    if differing:
        raise ConfigError(
            f"the stage under {folder} was started with other settings: {', '.join(differing)}; "
            "restore them, or begin a new stage in another output_dir"
        )
    return saved[-1]


def record_run(folder: Path, config: ContinualConfig, start: Start | None) -> None:
    """Keep the settings beside the checkpoints."""
    record = {"config": asdict(config), "start": None if start is None else asdict(start)}
    write_atomic(folder / RUN_RECORD, [json.dumps(record, indent=2).encode()])


def recorded_start(folder: Path) -> Start | None:
    """What the stage whose checkpoints lie in `folder` began with."""
    start = _recorded(folder)["start"]
    return None if start is None else Start(**start)


def _recorded(folder: Path) -> dict[str, Any]:
    path = folder / RUN_RECORD
    try:
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return recorded
