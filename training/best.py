"""The best state of a run on validation, in one file."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

_FACTS = "facts"


class BestState:
    """Keeps the weights of the model that scored highest, of equal scores the first, in `file`.

    What the score was lies in the same file, so that a kill leaves the state before or the new one.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def offer(self, model: nn.Module, score: float, step: int, measures: dict[str, float]) -> None:
        """Keep the model as it is now, if its `score` is the best so far."""
        if self._file.is_file() and self.facts()["score"] >= score:
            return
        facts = {"score": score, "step": step, "validation": measures}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f"{self._file.name}.partial")
        save_model(model, str(partial), metadata={_FACTS: json.dumps(facts)})
        partial.replace(self._file)

    def facts(self) -> dict[str, Any]:
        """Score, step and validation measures of the state that is kept."""
        with safe_open(self._file, framework="pt") as file:
            found: dict[str, Any] = json.loads(file.metadata()[_FACTS])
        return found

    def load(self, model: nn.Module) -> None:
        """Put the kept weights into `model`, which is of the same kind."""
        load_model(model, self._file)
