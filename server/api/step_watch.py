"""Notices engines that do not come back from a step."""

import logging
from collections.abc import Iterable

from .served_models import ServedModel

logger = logging.getLogger(__name__)

# Far more than a step of a large model takes there, with what its first one compiles.
_GPU_SECONDS, _CPU_SECONDS = 300.0, 1800.0


class StepWatch:
    """Knows whose engine has been in one step for too long: a kernel or a device that hangs raises
    nothing, and its thread cannot be ended.

    Args:
        models: whose engines are watched.
        seconds: the longest that a step may take; None for 300 on a GPU and 1800 on a CPU.
    """

    def __init__(self, models: Iterable[ServedModel], seconds: float | None) -> None:
        self._engines = {model.name: model.engine for model in models}
        self._limits = {
            name: seconds or (_CPU_SECONDS if engine.info.device == "cpu" else _GPU_SECONDS)
            for name, engine in self._engines.items()
        }
        self._told: set[str] = set()

    def hung(self) -> list[str]:
        """The models whose engine has been in its present step for longer than it may."""
        return [
            name
            for name, engine in self._engines.items()
            if engine.seconds_in_step > self._limits[name]
        ]

    def look(self) -> None:
        """Logs what has changed since the last time."""
        hung = set(self.hung())
        for name in sorted(hung - self._told):
            fields = {"model": name, "seconds": self._limits[name]}
            logger.error("a step of the engine does not end", extra={"fields": fields})
        for name in sorted(self._told - hung):
            logger.warning("the engine moves again", extra={"fields": {"model": name}})
        self._told = hung
