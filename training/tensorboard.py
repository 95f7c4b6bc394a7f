"""TensorBoard files of a run, without any service."""

from pathlib import Path

from transformers import TrainerCallback


def tensorboard_callbacks(wanted: bool, output: Path) -> list[TrainerCallback]:
    """What writes the Trainer's log lines to `runs/` under `output`, if it is wanted."""
    if not wanted:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(output / "runs")))]
