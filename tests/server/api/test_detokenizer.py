"""Text token by token equals the text at once, and never shows half a character."""

from collections.abc import Sequence

import pytest
from gistserve.server.api.detokenizer import IncrementalDetokenizer, StopStringScanner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ...chat_model import byte_tokenizer

BYTES = byte_tokenizer()


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """In SentencePiece's manner: whole words where known, else one token a byte."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁hello", "▁world", "▁"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", clean_up_tokenization_spaces=False
    )


FALLBACK = byte_fallback_tokenizer()


def pieces(
    tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int], context: Sequence[int] = ()
) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, context)
    return [detokenizer.add(token_id) for token_id in token_ids]


def fallback_ids(text: str) -> list[int]:
    return [FALLBACK.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]


valid_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))


@given(valid_text)
def test_byte_level_text_comes_whole_and_unbroken(text: str) -> None:
    shown = pieces(BYTES, BYTES.encode(text, add_special_tokens=False))
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)


@given(valid_text)
def test_byte_fallback_text_comes_whole_and_unbroken(text: str) -> None:
    shown = pieces(FALLBACK, fallback_ids(text))
    # The decoder itself strips one leading space.
    assert "".join(shown) == text.removeprefix(" ")
    assert not any("\ufffd" in piece for piece in shown)


def test_each_character_is_shown_with_its_last_byte() -> None:
    shown = pieces(BYTES, BYTES.encode("a€b", add_special_tokens=False))
    assert shown == ["a", "", "", "€", "b"]


@pytest.mark.parametrize("text", ["€", "😀", "x😀"])
def test_an_incomplete_end_is_not_shown(text: str) -> None:
    for tokenizer, ids in ((BYTES, BYTES.encode(text)), (FALLBACK, fallback_ids(text))):
        shown = "".join(pieces(tokenizer, ids[:-1]))
        assert shown == text[:-1]


@given(st.binary(max_size=40))
def test_broken_bytes_followed_by_text_read_as_in_decode(raw: bytes) -> None:
    ids = [BYTES.convert_tokens_to_ids(_byte_char(byte)) for byte in raw + b" end"]
    assert (
        "".join(pieces(BYTES, ids))
        == BYTES.decode(ids)
        == (raw + b" end").decode("utf-8", "replace")
    )


def test_endless_tokens_without_text_keep_the_window_short() -> None:
    detokenizer = IncrementalDetokenizer(BYTES)
    continuation = BYTES.convert_tokens_to_ids(_byte_char(0x80))
    special = BYTES.eos_token_id
    for token_id in [continuation] * 500 + [special] * 500:
        detokenizer.add(token_id)
        assert len(detokenizer._window) < 100
    assert detokenizer.add(BYTES.encode("z", add_special_tokens=False)[0]).endswith("z")


def test_a_continued_text_keeps_its_leading_space() -> None:
    hello, world = FALLBACK.convert_tokens_to_ids(["▁hello", "▁world"])
    assert pieces(FALLBACK, [world], context=[hello]) == [" world"]
    assert pieces(FALLBACK, [hello, world]) == ["hello", " world"]


def test_special_tokens_have_no_text() -> None:
    assert pieces(BYTES, [BYTES.eos_token_id, BYTES.encode("a")[0]]) == ["", "a"]


def scan(chunks: Sequence[str], stops: Sequence[str]) -> tuple[list[str], bool]:
    scanner = StopStringScanner(stops)
    shown = [scanner.add(chunk) for chunk in chunks]
    shown.append(scanner.finish())
    return shown, scanner.stopped


ab = st.text("ab", max_size=30)


@given(st.lists(ab, max_size=12), st.text("ab", min_size=1, max_size=6))
def test_text_ends_before_the_stop_string_however_it_is_split(chunks: list[str], stop: str) -> None:
    shown, stopped = scan(chunks, [stop])
    text = "".join(chunks)
    assert stopped == (stop in text)
    assert "".join(shown) == text.split(stop)[0]


@given(st.lists(ab, max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_no_stop_string_is_ever_shown(chunks: list[str], stops: list[str]) -> None:
    shown, stopped = scan(chunks, stops)
    assert not any(stop in "".join(shown) for stop in stops)
    assert "".join(chunks).startswith("".join(shown))
    assert stopped or "".join(shown) == "".join(chunks)


def test_only_what_may_become_a_stop_string_is_held() -> None:
    shown, _ = scan(["ab", "c", "x", "<", "en", "d", "z"], ["<end>"])
    assert shown == ["ab", "c", "x", "", "", "", "<endz", ""]


def _byte_char(byte: int) -> str:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    others = [b for b in range(256) if b not in printable]
    return chr(256 + others.index(byte))
