"""Stages that record the rows of their batches; also run by two processes of one group."""

import sys
from pathlib import Path

import torch
from gistserve.training.continual import train_continual
from gistserve.training.continual.causal import Batch
from gistserve.training.continual.config import ContinualConfig
from gistserve.training.continual.trainer import ContinualTrainer

NAMES = ("input_ids", "position_ids", "labels")


def train_recording(config: ContinualConfig, *, resume: bool, rank: int = 0) -> None:
    """Train, and write this process's rows of every step to `rows-<rank>.pt`: [R, 3, T] each."""
    seen: list[torch.Tensor] = []
    whole = ContinualTrainer._own_rows

    def spy(self: ContinualTrainer, batch: Batch) -> Batch:
        own = whole(self, batch)
        seen.append(torch.stack([own[name] for name in NAMES], 1))
        return own

    ContinualTrainer._own_rows = spy  # type: ignore[method-assign]
    try:
        output = train_continual(config, resume=resume)
    finally:
        ContinualTrainer._own_rows = whole  # type: ignore[method-assign]
    torch.save(seen, output / f"rows-{rank}.pt")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from texts import replay_config

    folder, fresh, begun = map(Path, sys.argv[1:])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    train_recording(replay_config(folder, fresh), resume=False, rank=rank)
    train_recording(replay_config(folder, begun), resume=True, rank=rank)
    torch.distributed.destroy_process_group()
