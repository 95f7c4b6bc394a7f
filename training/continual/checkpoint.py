"""Which checkpoint a stage goes on from, and what it was begun with."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...compress.atomic import write_atomic
from ..accelerate_checkpoints import saved_checkpoints
from ..config import ConfigError
from .config import ContinualConfig
from .stage import Start

RUN_RECORD = "run.json"


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
