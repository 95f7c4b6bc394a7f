"""The ways of giving a server its prompts, and how a request proves which one it went."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from ..load.compression import Compression
from ..load.errors import LoadError
from ..load.sample import Sample


class Arm(StrEnum):
    """`none` sends the prompt with every request; the others register it once and name it."""

    none = "none"
    prefix = "prefix"
    gist = "gist"

    @property
    def label(self) -> str:
        return {"none": "no cache", "prefix": "full-prefix cache", "gist": "gist"}[self.value]

    @property
    def compression(self) -> Compression | None:
        """How the server is asked to keep the prompt; None where it is not."""
        return None if self is Arm.none else Compression(self.value)


KEPT = (Arm.prefix, Arm.gist)
"""The arms that keep a prompt, the one that others are compared with first."""


def rotated(arms: Sequence[Arm], turn: int) -> list[Arm]:
    """The arms in their order, another one first each turn."""
    start = turn % len(arms)
    return [*arms[start:], *arms[:start]]


def check_hits(arm: Arm, samples: Sequence[Sample], kept: Sequence[dict[str, Any]]) -> None:
    """Refuse samples that did not do what their arm says.

    Args:
        kept: the ``compression`` of the registered prompts that were asked under, as the server's
            resources have it; empty where none is registered.

    Raises:
        LoadError: a request failed, its answer has another length than was asked for, or its usage
            tells of another cache than one of `kept`.
    """
    sizes = {(prompt["prompt_tokens"], _gist_slots(arm, prompt)) for prompt in kept} or {(0, 0)}
    for sample in samples:
        if not sample.ok:
            raise LoadError(f"{arm.label}: a request failed: {sample.error}.")
        if sample.output_tokens != sample.wanted_tokens:
            raise LoadError(
                f"{arm.label}: an answer has {sample.output_tokens} tokens where "
                f"{sample.wanted_tokens} were asked for; give the server a larger "
                "--kv-cache-memory."
            )
        if (sample.cached_tokens, sample.gist_tokens) not in sizes:
            raise LoadError(_other_cache(arm, sample, sizes))


def _gist_slots(arm: Arm, prompt: dict[str, Any]) -> int:
    return int(prompt["slots"]) if arm is Arm.gist else 0


def _other_cache(arm: Arm, sample: Sample, sizes: set[tuple[int, int]]) -> str:
    cached, slots = min(sizes)
    return (
        f"{arm.label}: a request's usage tells of {_told(sample.cached_tokens)} cached prompt "
        f"tokens and {_told(sample.gist_tokens)} gist slots, where there should be {cached} and "
        f"{slots}: it did not use the cache that this arm stands for."
    )


def _told(count: int | None) -> str:
    return "an unknown number of" if count is None else str(count)
