"""Work on a list that all processes share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from ..generate import GenerateTexts, SamplingSettings

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(items: Sequence[Item], work: Callable[[list[Item]], list[Result]]) -> list[Result]:
    """`work` on each process's share of `items`; all results, in order, on every process.

    work: gives one result an item; it is not called for a share of none.
    """
    state = PartialState()
    if state.num_processes == 1:
        return work(list(items)) if items else []
    with state.split_between_processes(list(items)) as share:
        own = work(share) if share else []
    gathered: list[Any] = gather_object(own)
    return gathered


class SpreadGenerate:
    """A GenerateTexts that has every process write a share of the texts, each with its own seed."""

    def __init__(self, generate: GenerateTexts) -> None:
        self._generate = generate

    def __call__(self, prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        own = replace(settings, seed=settings.seed + 1_000_003 * PartialState().process_index)
        return spread(prompts, lambda share: self._generate(share, own))
