"""One stage by one and by two processes: the same batches, the same training."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gistserve.training.run_log import read_metrics
from safetensors.torch import load_file

from .texts import make_folder, replay_config
from .two_processes import train_recording

pytest.importorskip("accelerate")
SCRIPT = Path(__file__).with_name("two_processes.py")


def run_two(*folders: Path) -> None:
    """Two processes of one group, with the environment that torchrun and accelerate launch set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    group |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, folders)],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], (
        said[0][-3000:] + said[1][-3000:]
    )


def rows(output: Path, processes: int) -> list[torch.Tensor]:
    """The batch of every step: the parts of the processes one after another."""
    parts = [torch.load(output / f"rows-{rank}.pt") for rank in range(processes)]
    return [torch.cat(step) for step in zip(*parts, strict=True)]


def test_two_processes_train_on_the_same_batches(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    one, two, mixed = tmp_path / "one", tmp_path / "two", tmp_path / "mixed"
    train_recording(replay_config(folder, one), resume=False)
    shutil.copytree(one, mixed)
    shutil.rmtree(mixed / "checkpoints/checkpoint-6")
    run_two(folder, two, mixed)

    expected = rows(one, 1)
    assert [len(step) for step in expected] == [4] * 6
    assert all(map(torch.equal, rows(two, 2), expected))
    assert all(map(torch.equal, rows(mixed, 2), expected[3:]))
    for other in (two, mixed):
        check_same_training(one, other)


def check_same_training(left: Path, right: Path) -> None:
    """But for the order in which floating-point numbers are added."""
    for ours, theirs in zip(read_metrics(left), read_metrics(right), strict=True):
        values = [row.get("loss") or row["validation"]["average"] for row in (ours, theirs)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    weights, others = (load_file(folder / "model.safetensors") for folder in (left, right))
    for name, tensor in weights.items():
        np.testing.assert_allclose(others[name], tensor, rtol=1e-3, atol=1e-3)
