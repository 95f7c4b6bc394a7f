"""The server of a comparison: one that runs, or one that is started for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ...server.commands.model_source import ModelSource
from ...server.demo.process import ServerProcess, ServerProcessError
from ..load.errors import LoadError


@contextmanager
def serving(sources: Sequence[ModelSource], url: str | None) -> Iterator[str]:
    """Address of a server of all these models; started and stopped here where `url` is None.

    Raises:
        LoadError: the server does not start; the message ends with the end of its log.
    """
    if url is not None:
        yield url.rstrip("/").removesuffix("/v1")
        return
    with TemporaryDirectory(prefix="gistserve-") as folder:
        models = [word for s in sources for word in ("--model", f"{s.name}={s.location}")]
        server = ServerProcess(
            [*models, "--store", f"{folder}/prompts"], Path(folder) / "server.log"
        )
        try:
            with server:
                server.wait_until_ready()
                yield server.url
        except ServerProcessError as error:
            raise LoadError(str(error)) from error
