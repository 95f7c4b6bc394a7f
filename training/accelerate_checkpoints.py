"""Checkpoints of an own loop on accelerate: all that is needed to go on exactly, or not there."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator

from ..compress.atomic import sync_directory, write_atomic
from .config import ConfigError

PROGRESS = "progress.json"
_PREFIX = "checkpoint-"


@dataclass
class Progress:
    """Where a run stands. `step` alone gives data position and schedule phase."""

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
