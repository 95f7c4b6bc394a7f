"""The server of a comparison: one that runs, or one that is started for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...server.commands.model_source import ModelSource
from ..load.errors import LoadError
from ..started_server import started_server


@dataclass(frozen=True)
class ServerSettings:
    """What a server that is started is told, in `gistserve serve`'s own words.

    Attributes:
        adapters: folders of gist adapters, beside those in the models' own folders.
        kv_cache_memory, prompt_memory: sizes; None where its default holds.
    """

    adapters: Sequence[Path] = ()
    kv_cache_memory: str | None = None
    prompt_memory: str | None = None

    def arguments(self, sources: Sequence[ModelSource], store: Path) -> list[str]:
        """For `gistserve serve`."""
        words = [word for s in sources for word in ("--model", f"{s.name}={s.location}")]
        words += [word for folder in self.adapters for word in ("--gist-adapter", str(folder))]
        words += ["--store", str(store)]
        if self.kv_cache_memory is not None:
            words += ["--kv-cache-memory", self.kv_cache_memory]
        if self.prompt_memory is not None:
            words += ["--prompt-memory", self.prompt_memory]
        return words


@contextmanager
def serving(
    sources: Sequence[ModelSource], url: str | None, settings: ServerSettings | None = None
) -> Iterator[str]:
    """Address of a server of all these models; started and stopped here where `url` is None.

    Without settings the server's defaults hold.

    Raises:
        LoadError: the server does not start (the message ends with the end of its log), or it
            runs already and there are settings for it.
    """
    settings = settings or ServerSettings()
    if url is not None:
        if settings != ServerSettings():
            raise LoadError(
                f"The server at {url} runs already: --gist-adapter, --kv-cache-memory and "
                "--prompt-memory are for one that is started. Start it with them, or leave --url "
                "out."
            )
        yield url.rstrip("/").removesuffix("/v1")
        return
    with started_server(lambda store: settings.arguments(sources, store)) as started:
        yield started
