"""Two processes that train together."""

import os
import socket
import subprocess
import sys


def run_two(*command: str) -> None:
    """Run `gistserve COMMAND` in two processes of one group."""
    run_python_twice("-m", "gistserve.server.cli", *command)


def run_python_twice(*arguments: str) -> None:
    """Run Python twice, in the environment that torchrun and accelerate launch set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    group |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], (
        said[0][-2000:] + said[1][-2000:]
    )
