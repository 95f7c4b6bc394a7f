"""How many positions a sequence of a model may have."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def choose_max_model_len(model: PreTrainedModel, wanted: int | None) -> int:
    """Most positions of a sequence: the model's limit, or a smaller one that is asked for.

    Raises:
        ValueError: more are wanted than the model has, or it does not say how many it has.
    """
    limit = _position_limit(model.config.get_text_config(decoder=True))
    if wanted is None:
        if limit is None:
            raise ValueError(
                f"{type(model).__name__} does not say how many positions it has; set max_model_len"
            )
        return limit
    if limit is not None and wanted > limit:
        raise ValueError(
            f"max_model_len is {wanted}, but {type(model).__name__} can be served with at most "
            f"{limit} positions"
        )
    return wanted


def _position_limit(text_config: Any) -> int | None:
    """The model's own number of positions, less where its RoPE changes on the way there.

    "dynamic" and "longrope" take their frequencies from the largest position of a forward. Beyond
    the original length one long sequence would change the others of its batch, and every sequence
    the meaning of the keys that it has cached.
    """
    limits = [getattr(text_config, "max_position_embeddings", None)]
    rope = getattr(text_config, "rope_parameters", None) or {}
    for entry in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if entry.get("rope_type") in ("dynamic", "longrope"):
            limits.append(
                entry.get("original_max_position_embeddings")
                or getattr(text_config, "original_max_position_embeddings", None)
            )
    return min((limit for limit in limits if limit is not None), default=None)
