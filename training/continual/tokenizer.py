"""The tokenizer of a run: the model's own, a given one, or one trained on the sources."""

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..config import ConfigError
from .source import Source

END = "<|endoftext|>"
PAD = "<|pad|>"
MASK = "<|mask|>"
MAX_SENTINELS = 100
_SPECIAL = (END, PAD, MASK)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Tokenizer of a folder or hub name. ConfigError where there is none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"no tokenizer can be loaded from {name!r}: {error}") from error
    return tokenizer


def train_tokenizer(
    sources: Sequence[Source], vocabulary: int, *, sentinels: int = 0
) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer of `vocabulary` ids, trained on all of the sources.

    Its special tokens are an end, a padding and a mask token, and `sentinels` tokens
    <extra_id_0>, ... for span corruption. Raises SourceError and ConfigError.
    """
    special = [*_SPECIAL, *(f"<extra_id_{i}>" for i in range(sentinels))]
    least = 256 + len(special)
    if vocabulary < least:
        raise ConfigError(f"vocabulary_size must be at least {least}, got {vocabulary}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(_texts(sources), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, mask_token=MASK
    )


def _texts(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        for text, _ in source.documents():
            yield text
