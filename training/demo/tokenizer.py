"""The embedded model's tokenizer: byte-level BPE over policy text, with chat markers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .policy import PolicyMix, sample_policy, sample_turn

BOS = "<|begin|>"
END = "<|end|>"
PAD = "<|pad|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(
    seed: int, *, vocab_size: int = 1536, policies: int = 4000, max_length: int = 1024
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated policies, seen and unseen wording alike.

    Every byte is in the alphabet, so any text can be encoded; common words become one token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PAD, BOS, END, *ROLES.values()],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random.Random(seed), policies), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def _texts(rng: random.Random, policies: int) -> Iterator[str]:
    for index in range(policies):
        mix = PolicyMix(max_fillers=8, wording="unseen" if index % 4 == 0 else "seen")
        policy = sample_policy(rng, mix)
        yield policy.text
        for _ in range(4):
            turn = sample_turn(rng, policy, mix)
            yield turn.message
            yield turn.reply
