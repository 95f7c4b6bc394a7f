"""A `gistserve serve` for the length of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..server.demo.process import ServerProcess, ServerProcessError
from .load.errors import LoadError


@contextmanager
def started_server(arguments: Callable[[Path], Sequence[str]]) -> Iterator[str]:
    """Address of a server that is stopped at the end, given what it is told by a store's folder.

    Raises:
        LoadError: it does not start; the message ends with the end of its log.
    """
    with TemporaryDirectory(prefix="gistserve-") as folder:
        words = list(arguments(Path(folder) / "prompts"))
        try:
            with ServerProcess(words, Path(folder) / "server.log") as server:
                server.wait_until_ready()
                yield server.url
        except ServerProcessError as error:
            raise LoadError(str(error)) from error
