"""What a run of an own loop reports while it runs: `metrics.jsonl` and TensorBoard."""

import json
from pathlib import Path
from typing import Any

from ..compress.atomic import write_atomic

METRICS_NAME = "metrics.jsonl"


class RunLog:
    """Appends one JSON object a line; with `tensorboard` its numbers go to `runs/` too.

    Opened at `step`: lines of later steps, which a resumed run will write again, are dropped.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self._path = folder / METRICS_NAME
        kept = [row for row in read_metrics(folder) if row["step"] <= step] if step else []
        write_atomic(self._path, [(json.dumps(row) + "\n").encode() for row in kept])
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "runs"), purge_step=step + 1)

    def write(self, step: int, **values: Any) -> None:
        """One line. Nested mappings become a/b in TensorBoard."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer is not None:
            for name, value in _flat(values):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a folder's `metrics.jsonl`, none where there is no such file."""
    path = folder / METRICS_NAME
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    pairs: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            pairs.append((prefix + name, float(value)))
    return pairs
