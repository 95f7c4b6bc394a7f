"""The models behind this server, and which of them a request's `model` means."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ...compress.adapter import GistAdapter
from ..engine.engine import Engine
from .errors import bad_value, model_not_found


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One model with its running engine.

    name: what clients send as `model` (may contain "/"); fingerprint: hash of weights, tokenizer,
    template and RoPE settings that binds prompt caches to it; max_model_len: positions;
    adapter: what makes gists, if the model has one; root: where the weights came from;
    pooling: how its embeddings are made of hidden states ("last", or what is not done here); None
    for a model that makes none; generates: whether it answers, too.
    """

    name: str
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    max_model_len: int
    adapter: GistAdapter | None = None
    root: str | None = None
    pooling: str | None = None
    generates: bool = True
    created: int = field(default_factory=lambda: int(time.time()))

    def check_generates(self) -> None:
        """Raises ApiError (400) for a model that makes embeddings only."""
        if not self.generates:
            raise bad_value(
                "model",
                f"`{self.name}` was made for embeddings: use /v1/embeddings. Start the server with "
                "--embeddings to have it answer all the same.",
                "model_not_supported",
            )

    @property
    def system_fingerprint(self) -> str:
        """OpenAI's word for "the same answers may be expected"."""
        return f"fp_{hashlib.sha256(self.fingerprint.encode()).hexdigest()[:12]}"


class ServedModels:
    """The served models by name.

    Raises:
        ValueError: no model, an empty name, or the same name twice.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        if not models:
            raise ValueError("a server needs at least one model")
        self._by_name = {model.name: model for model in models}
        if "" in self._by_name:
            raise ValueError("a served model needs a name")
        if len(self._by_name) < len(models):
            names = sorted(model.name for model in models)
            raise ValueError(f"served model names must differ, got {', '.join(names)}")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def get(self, name: str) -> ServedModel | None:
        return self._by_name.get(name)

    def resolve(self, field_value: str | None) -> tuple[ServedModel, str | None]:
        """The model of a request's `model` field, and the prompt's name behind it, if any.

        The longest model name wins, since names may contain "/". Without a value the first model
        is meant. Raises ApiError (404) where no model's name fits.
        """
        if field_value is None:
            return next(iter(self._by_name.values())), None
        if field_value in self._by_name:
            return self._by_name[field_value], None
        fitting = [name for name in self._by_name if field_value.startswith(name + "/")]
        if not fitting:
            raise model_not_found(field_value)
        name = max(fitting, key=len)
        return self._by_name[name], field_value[len(name) + 1 :]
