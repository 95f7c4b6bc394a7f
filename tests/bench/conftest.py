"""Servers that benches are tried on: a fake one, and ours with two tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gistserve.server.demo.process import ServerProcess

from ..chat_model import save_chat_model
from .fake_server import start_server

__all__ = ["live_server", "model_folders", "start_server"]


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two tiny random chat models by name; the first one has a gist adapter."""
    folder = tmp_path_factory.mktemp("contenders")
    return {
        "teacher": save_chat_model(folder / "teacher", seed=1, gists=4),
        "student": save_chat_model(folder / "student", seed=2, adapter=False),
    }


@pytest.fixture(scope="session")
def live_server(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of our own server with both models."""
    folder = tmp_path_factory.mktemp("live_server")
    models = [
        word for name, path in model_folders.items() for word in ("--model", f"{name}={path}")
    ]
    arguments = [*models, "--store", str(folder / "prompts"), "--kv-cache-memory", "32MiB"]
    with ServerProcess(arguments, folder / "server.log") as server:
        server.wait_until_ready()
        yield server.url
