"""Texts of exact length, by tokenizers good and bad."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.words import WORDS
from gistserve.bench.peers.prompts import draw_requests, exact_text
from gistserve.bench.peers.tokenizer import END_OF_TEXT, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

COUNTS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "words and a begin token": lambda text: 1 + len(text.split()),
    "pairs of characters": lambda text: -(-len(text) // 2),
    "most words one token, some two": lambda text: sum(
        1 + (len(word) > 6) for word in text.split()
    ),
}


@pytest.mark.parametrize("name", COUNTS)
@given(tokens=st.integers(8, 300), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_texts_have_the_exact_number_of_tokens(name: str, tokens: int, seed: int) -> None:
    count = COUNTS[name]
    text = exact_text(tokens, count, np.random.default_rng(seed))
    assert count(text) == tokens
    assert set(text.split()) <= set(WORDS)


def test_a_text_one_token_short_is_begun_anew() -> None:
    # With one of these seeds the first words leave a gap of one token, which no word has.
    count = COUNTS["pairs of characters"]
    for seed in range(100):
        assert count(exact_text(233, count, np.random.default_rng(seed))) == 233


def test_a_length_that_no_text_has_is_refused() -> None:
    with pytest.raises(LoadError, match="No text of 7 tokens"):
        exact_text(7, lambda text: 2 * len(text.split()), np.random.default_rng(0))


def test_requests_share_lengths_but_no_beginning() -> None:
    tokenizer = make_tokenizer(1200)
    requests = draw_requests(
        8, 20, 5, lambda text: len(tokenizer(text).input_ids), np.random.default_rng(0)
    )
    assert {request.output_tokens for request in requests} == {5}
    assert [len(tokenizer(request.input).input_ids) for request in requests] == [20] * 8
    assert len({request.input for request in requests}) == 8


def test_every_word_of_the_made_tokenizer_is_one_token() -> None:
    tokenizer = make_tokenizer(1200)
    ids = tokenizer("".join(f" {word}" for word in WORDS)).input_ids
    assert len(ids) == len(WORDS)
    assert tokenizer.decode(ids) == "".join(f" {word}" for word in WORDS)


def test_the_made_tokenizer_fills_its_vocabulary_and_reads_any_text() -> None:
    tokenizer = make_tokenizer(1200)
    assert len(tokenizer) == 1200
    assert sorted(tokenizer.get_vocab().values()) == list(range(1200))
    for text in ("ça 日本\n", f"a{END_OF_TEXT}b", ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer(END_OF_TEXT).input_ids == [tokenizer.eos_token_id]
    # What a random model generates streams token by token.
    assert tokenizer.decode([1199]).isascii()


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="a vocabulary of 300 is too small"):
        make_tokenizer(300)
