"""The server that all arms are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ...server.demo.process import ServerProcess, ServerProcessError
from ..load.errors import LoadError
from .settings import ServerSettings

MODEL = "model"
"""Name that the model is served under."""


@contextmanager
def serving(settings: ServerSettings) -> Iterator[str]:
    """Address of a server that keeps registered prompts and nothing else; stopped at the end.

    Raises:
        LoadError: it does not start; the message ends with the end of its log.
    """
    with TemporaryDirectory(prefix="gistserve-") as folder:
        arguments = settings.arguments(MODEL, Path(folder) / "prompts")
        try:
            with ServerProcess(arguments, Path(folder) / "server.log") as server:
                server.wait_until_ready()
                yield server.url
        except ServerProcessError as error:
            raise LoadError(str(error)) from error
