"""What every measurement on the server needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from ..load.client import LoadClient
from ..load.lengths import Lengths
from ..load.words import TokensPerWord
from ..load.workload import LoadRequest, Workload
from .room import Room
from .settings import PromptsSettings

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """The server, and what is known of it.

    Attributes:
        tokens: how the model's tokenizer splits words.
        on_step: called with a line before each measurement.
    """

    settings: PromptsSettings
    client: LoadClient
    session: aiohttp.ClientSession
    tokens: TokensPerWord
    room: Room
    on_step: OnStep

    def requests(
        self, prompts: Sequence[str], ids: Sequence[str | None], count: int, *seed: int
    ) -> list[LoadRequest]:
        """`count` requests over the prompts; the same seed gives the same inputs."""
        settings = self.settings
        workload = Workload(
            Lengths("fixed", settings.input_tokens), Lengths("fixed", settings.output_tokens)
        )
        rng = np.random.default_rng((settings.seed, *seed))
        return workload.draw_requests(count, prompts, ids, self.tokens, rng)
