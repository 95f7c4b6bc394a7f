"""What every buffer of rollouts is made of and how it is learned: functions of its number."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..config import ConfigError


@dataclass(frozen=True)
class BufferPlan:
    """Prompts, seeds and minibatches of buffers 0, 1, ..., shared by `processes` processes.

    num_prompts: prompts there are; each is asked once before any is asked again. rollouts: prompts
    of a buffer. minibatch: rollouts of one step. accumulation: parts of a process's minibatch.
    ConfigError where they do not divide.
    """

    num_prompts: int
    rollouts: int
    minibatch: int
    inner_epochs: int
    seed: int
    accumulation: int = 1
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        parts = self.processes * self.accumulation
        if self.num_prompts < 1:
            raise ConfigError("there is no prompt to ask")
        if self.rollouts % self.minibatch:
            raise ConfigError(
                f"rollouts must be a multiple of minibatch ({self.minibatch}), got {self.rollouts}"
            )
        if self.minibatch % parts:
            raise ConfigError(
                f"a minibatch of {self.minibatch} cannot be shared by {self.processes} process(es) "
                f"in gradient_accumulation_steps {self.accumulation} parts: make it a multiple of "
                f"{parts}"
            )

    @property
    def steps(self) -> int:
        """Minibatches of one buffer, over all inner epochs."""
        return self.rollouts // self.minibatch * self.inner_epochs

    def prompts(self, buffer: int) -> list[int]:
        """Numbers of the prompts that this process asks."""
        own = self.rollouts // self.processes
        first = buffer * self.rollouts + self.process * own
        prompts: list[int] = []
        while len(prompts) < own:
            turn, rest = divmod(first + len(prompts), self.num_prompts)
            order = np.random.default_rng([self.seed, 0, turn]).permutation(self.num_prompts)
            prompts += order[rest : rest + own - len(prompts)].tolist()
        return prompts

    def sampling_seed(self, buffer: int) -> int:
        """Seed of the responses of this process."""
        sequence = np.random.SeedSequence([self.seed, 1, buffer, self.process])
        return int(sequence.generate_state(1)[0])

    def minibatches(self, buffer: int) -> Iterator[list[list[int]]]:
        """For each step this process's rows among its own rollouts, in `accumulation` parts."""
        own = self.rollouts // self.processes
        for epoch in range(self.inner_epochs):
            random = np.random.default_rng([self.seed, 2, buffer, epoch, self.process])
            order = random.permutation(own).tolist()
            size = self.minibatch // self.processes
            for start in range(0, own, size):
                yield self._parts(order[start : start + size])

    def documents(self, step: int) -> list[list[int]]:
        """Numbers of the documents of a step that are this process's, in `accumulation` parts."""
        own = self.minibatch // self.processes
        first = step * self.minibatch + self.process * own
        return self._parts(list(range(first, first + own)))

    def _parts(self, rows: list[int]) -> list[list[int]]:
        size = len(rows) // self.accumulation
        return [rows[start : start + size] for start in range(0, len(rows), size)]
