"""Settings of one annotation: one YAML file, one dataclass."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(kw_only=True)
class AnnotationConfig:
    """What `annotate` does.

    `data`: records to annotate (their places: training/records.py). `input_template` writes the
    input from a record's fields; `label_field` is handed on where a record has it. `limit` takes
    the first records only. `output`: the annotated records, JSONL; OUTPUT.unparsable.jsonl and
    OUTPUT.answers.jsonl lie beside it.

    `demonstrations`: worked examples that come with the package (`cqa`, `svamp`, `nli`), or a file
    (demonstrations.py).

    `model` is the teacher. With `url`, the model of that name at an OpenAI-compatible interface,
    such as http://127.0.0.1:8000/v1; without, a causal language model of transformers (a folder, or
    a name on the hub) that runs here. `api` is `chat` for models with a chat template, and
    `completions` for plain language models, as the paper's. `max_tokens` bounds an answer.

    For a `url`: the key is read from the environment variable `api_key_variable`, if it is set;
    `concurrency` requests run at a time; one of them may take `timeout` seconds, and is tried again
    up to `retries` times; `body` adds fields to each request, or with null leaves out ours (`stop`,
    `temperature`, ...). For a model that runs here: `device`, and `batch_size` prompts at a time.
    """

    data: str
    output: str
    demonstrations: str
    model: str
    url: str | None = None
    api: Literal["chat", "completions"] = "chat"
    input_template: str = "{input}"
    label_field: str = "label"
    limit: int | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    api_key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    body: dict[str, Any] = field(default_factory=dict)
    device: Literal["auto", "cpu"] = "auto"
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("max_tokens", "concurrency", "batch_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("temperature", "retries"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("timeout", self.timeout > 0, "above 0")
        self._require("limit", self.limit is None or self.limit >= 1, "at least 1, or null")
        address = self.url is None or self.url.startswith(("http://", "https://"))
        self._require("url", address, "an address such as http://127.0.0.1:8000/v1, or null")
        self._require("output", self.output.endswith(".jsonl"), "a file name that ends in .jsonl")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")
