"""What a comparison is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ServerSettings:
    """The server that is started, in `gistserve serve`'s own words; None where its default holds.

    Attributes:
        model: folder or hub name.
        adapter: folder of its gist adapter; None where it has none.
    """

    model: str
    adapter: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    kv_cache_memory: str | None = None
    max_num_seqs: int = 32

    def arguments(self, name: str, store: Path) -> list[str]:
        """For `gistserve serve`. Nothing but registered prompts is kept between requests."""
        words = ["--model", f"{name}={self.model}", "--store", str(store), "--no-prefix-caching"]
        words += ["--device", self.device, "--dtype", self.dtype]
        words += ["--max-num-seqs", str(self.max_num_seqs)]
        if self.adapter is not None:
            words += ["--gist-adapter", str(self.adapter)]
        if self.kv_cache_memory is not None:
            words += ["--kv-cache-memory", self.kv_cache_memory]
        return words


@dataclass(frozen=True)
class SharedPrefix:
    """Many prompts that requests share: `prompts` of `prompt_tokens`, `requests` each a round.

    `prompt_tokens` of None are 1,000, or as many as the model takes.
    """

    prompts: int = 32
    prompt_tokens: int | None = None
    requests: int = 2
    concurrency: int = 32


@dataclass(frozen=True)
class Labelled:
    """A request under a prompt, and the answer that is right."""

    prompt: str
    input: str
    expected: str


@dataclass(frozen=True)
class PromptsSettings:
    """What is measured.

    Attributes:
        title: of the model, for people.
        prompts: texts by name; they come instead of synthetic ones.
        lengths: tokens of synthetic prompts; empty for all that the model takes of 64 to 8,192.
        concurrencies: requests at a time; 1 is among them.
        requests: of every arm, prompt and concurrency in a round; as many as are sent at a time,
            where that is more.
        input_tokens, output_tokens: of a request beside its prompt, and of its answer.
        budget: bytes that prompts may take.
        rounds: in which the arms take turns.
        cell_seconds: longest measurement of more than one request at a time; what would take longer
            is left out, and said so.
        shared: None to leave that workload out.
        labelled: to measure quality by; empty for none.
        trained: whether model and adapter are, so that there is quality to measure.
        max_tokens: of an answer to a labelled input.
    """

    server: ServerSettings
    title: str = ""
    prompts: dict[str, str] = field(default_factory=dict)
    lengths: Sequence[int] = ()
    concurrencies: Sequence[int] = (1, 8, 32)
    requests: int = 4
    input_tokens: int = 32
    output_tokens: int = 64
    budget: int = 2**30
    rounds: int = 5
    cell_seconds: float = 120.0
    shared: SharedPrefix | None = None
    labelled: Sequence[Labelled] = ()
    trained: bool = True
    max_tokens: int = 64
    seed: int = 0
    timeout: float = 1800.0
