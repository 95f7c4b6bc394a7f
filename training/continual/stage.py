"""What a finished stage tells the next one: `stage.json` in its folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...compress.atomic import write_atomic
from ..config import ConfigError

STAGE_NAME = "stage.json"
PRE_ANNEAL = "pre_anneal"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Stage:
    """A stage of training that ended.

    started_from: where its weights came from, None for a new model. schedule: its kind and rates.
    steps, tokens: of this stage. tokens_by_source: how many were drawn from each.
    pre_anneal: the subfolder with the weights before the anneal, and pre_anneal_step, or None.
    earlier: the stages before, first one first, in the same form.
    """

    started_from: str | None
    schedule: dict[str, Any]
    steps: int
    tokens: int
    tokens_by_source: dict[str, int]
    replay_ratio: float
    objective: str
    parameters: int
    seconds: float
    validation: dict[str, Any]
    pre_anneal: str | None = None
    pre_anneal_step: int | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write `stage.json`; done last, it says that the folder is whole."""
        write_atomic(folder / STAGE_NAME, [json.dumps(asdict(self), indent=2).encode() + b"\n"])

    @classmethod
    def load(cls, folder: Path) -> "Stage | None":
        """The stage of a folder; None for a model folder that is none of a stage.

        ConfigError for a stage that has not ended, and for a file that cannot be read.
        """
        path = folder / STAGE_NAME
        if not path.exists():
            if (folder / CHECKPOINTS).exists():
                raise ConfigError(
                    f"the stage in {folder} has not ended (there is no {STAGE_NAME}): resume it "
                    "first"
                )
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error

    def record(self) -> dict[str, Any]:
        """This stage without the ones before it."""
        return {name: value for name, value in asdict(self).items() if name != "earlier"}


@dataclass(frozen=True)
class Start:
    """Weights that a stage begins with.

    name: as configured; weights: folder or hub name they are loaded from. plateau: learning rate of
    the earlier stage's infinite schedule, at which the next one goes on. earlier: the stages
    before, first one first.
    """

    name: str
    weights: str
    plateau: float | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)


def find_start(name: str) -> Start:
    """Where the weights called `name` lie: a stage's weights before its anneal, where it has any.

    ConfigError for a stage that has not ended.
    """
    folder = Path(name)
    stage = Stage.load(folder) if folder.is_dir() else None
    if stage is None:
        return Start(name, name)
    weights = folder if stage.pre_anneal is None else folder / stage.pre_anneal
    infinite = stage.schedule["kind"] == "infinite"
    plateau = float(stage.schedule["constant_learning_rate"]) if infinite else None
    return Start(name, str(weights), plateau, [*stage.earlier, stage.record()])
