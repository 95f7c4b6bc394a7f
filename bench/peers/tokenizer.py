"""A tokenizer made in code, for models of random weights."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..load.words import WORDS

END_OF_TEXT = "<|endoftext|>"


def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """GPT-2's byte-level BPE that knows the load client's words, filled up to `vocab_size` tokens.

    Every word that follows a space is one token. The tokens that fill it up are plain ASCII: what
    a random model generates is text, whole at every token but for some of the 256 bytes.

    Raises:
        ValueError: `vocab_size` is too small for bytes and words.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([END_OF_TEXT, *alphabet])
    merges: dict[tuple[str, str], None] = {}
    for word in dict.fromkeys(WORDS):
        left = "Ġ"
        for letter in word:
            merges[left, letter] = None
            left += letter
            tokens[left] = None
    if vocab_size < len(tokens):
        raise ValueError(f"a vocabulary of {vocab_size} is too small; {len(tokens)} is the least")
    for number in range(vocab_size - len(tokens)):
        tokens[f"Ġfiller{number}"] = None
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )
