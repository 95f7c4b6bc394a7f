"""The model and adapter that are compared with, made here where they are not given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...compress.config import GistConfig
from ...server.demo import EMBEDDED_MODEL
from ..load.errors import LoadError
from .inputs import embedded_policies, read_labelled
from .random_model import SHAPES, write_random_model, write_untrained_adapter
from .settings import Labelled

_EMBEDDED = "embedded"
_MAX_MODEL_LEN = 16_384


@dataclass(frozen=True)
class ModelChoice:
    """What is served.

    Attributes:
        title: for people.
        model: folder or hub name.
        adapter: folder; None where the model has none, and gists cannot be compared.
        trained: whether weights and adapter are, so that quality can be measured.
    """

    title: str
    model: str
    adapter: Path | None
    trained: bool

    def labelled(
        self, place: str | None, prompts: dict[str, str], count: int, seed: int
    ) -> Sequence[Labelled]:
        """At most `count` labelled inputs, of the file or the embedded model's own policies.

        Raises:
            LoadError: as `read_labelled`, and for a file where there is no quality to measure.
        """
        if place is not None and not self.trained:
            raise LoadError(
                f"{self.title} has no quality to measure, as its weights or its adapter are "
                "untrained: leave --inputs out."
            )
        if place is not None:
            return read_labelled(place, prompts, count)
        own = self.trained and self.model == str(EMBEDDED_MODEL)
        return embedded_policies(count, seed) if own else ()


def choose_model(
    model: str,
    folder: Path,
    *,
    random_shape: str | None,
    adapter: Path | None,
    untrained_gists: int | None,
    dtype: str,
) -> ModelChoice:
    """The model, with the adapter that is given, untrained, or its own, in this order.

    Args:
        folder: for what is made here.
        random_shape: one of `SHAPES`, for random weights in place of `model`.
        dtype: of random weights; "auto" is float32.

    Raises:
        LoadError: two adapters, or an adapter for random weights.
        GistAdapterError: an adapter's folder that cannot be read.
    """
    if adapter is not None and (untrained_gists is not None or random_shape is not None):
        raise LoadError("--adapter is trained for one model: give it with --model alone.")
    title = model if random_shape is None else f"random weights of {random_shape}"
    if random_shape is not None:
        model = str(folder / random_shape)
        write_random_model(
            SHAPES[random_shape],
            Path(model),
            max_model_len=_MAX_MODEL_LEN,
            dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
        )
    elif model == _EMBEDDED:
        model = str(EMBEDDED_MODEL)
    if untrained_gists is not None:
        adapter = folder / "untrained_adapter"
        write_untrained_adapter(model, untrained_gists, adapter)
    own = Path(model) / "gist_adapter"
    if adapter is None and own.is_dir():
        adapter = own
    untrained = adapter is not None and GistConfig.load(adapter).training.get("untrained")
    trained = not untrained and random_shape is None
    return ModelChoice(Path(title).name, model, adapter, trained)
