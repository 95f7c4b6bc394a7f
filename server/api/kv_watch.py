"""Warns while a model's key/value cache is too small for the requests it has."""

import logging
from collections.abc import Mapping

from ..engine.engine import Engine
from ..logs import RepeatedWarning

logger = logging.getLogger(__name__)


class KVWatch:
    """Looks at engines from time to time; call `look` from the event loop.

    Sequences that lose their blocks to others are computed again: the server gets slower where it
    is busiest, and nothing else would say why.
    """

    def __init__(self, engines: Mapping[str, Engine], seconds: float = 10.0) -> None:
        self._engines = engines
        self._preemptions = dict.fromkeys(engines, 0)
        self._warnings = {name: RepeatedWarning(logger, seconds) for name in engines}

    def look(self) -> None:
        """Warns of what has happened since the last time."""
        for name, engine in self._engines.items():
            stats = engine.stats()
            preempted = stats.num_preemptions - self._preemptions[name]
            self._preemptions[name] = stats.num_preemptions
            if preempted:
                self._warnings[name].warn(
                    "the KV cache is full: requests gave up their place and are computed again; "
                    "raise kv_cache_memory or lower max_num_seqs",
                    count=preempted,
                    model=name,
                    running=stats.num_running,
                    waiting=stats.num_waiting,
                    kv_cache_usage=round(stats.kv_cache_usage, 3),
                )
