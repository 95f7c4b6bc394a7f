"""Which tokenizers are written as GGUF, and what is told of their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter, TokenType
from gistserve.bench.load.errors import LoadError
from gistserve.bench.peers.gguf_tokenizer import add_tokenizer
from gistserve.bench.peers.tokenizer import END_OF_TEXT, make_tokenizer
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def metadata(tokenizer: PreTrainedTokenizerFast, folder: Path, vocab_size: int) -> GGUFReader:
    tokenizer.save_pretrained(folder)
    writer = GGUFWriter(folder / "tokenizer.gguf", "llama")
    try:
        add_tokenizer(writer, folder, vocab_size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return GGUFReader(folder / "tokenizer.gguf")


def field(reader: GGUFReader, name: str) -> object:
    found = reader.get_field(f"tokenizer.ggml.{name}")
    return None if found is None else found.contents()


def test_tokens_that_a_model_has_beyond_its_tokenizer_are_told_unused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(1200)
    tokenizer.add_tokens(["user word"])
    found = metadata(tokenizer, tmp_path, 1210)
    tokens, types = field(found, "tokens"), field(found, "token_type")
    assert isinstance(tokens, list) and isinstance(types, list)
    assert tokens[:2] == [END_OF_TEXT, "!"]
    assert tokens[1199] == tokenizer.convert_ids_to_tokens(1199)
    assert tokens[1200:1202] == ["user word", "[PAD1201]"]
    assert len(tokens) == len(types) == 1210
    assert types[:2] == [TokenType.CONTROL, TokenType.NORMAL]
    assert types[1199:1202] == [TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED]
    assert field(found, "eos_token_id") == 0


def test_a_begin_token_is_told_where_the_tokenizer_adds_one(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(1200)
    assert field(metadata(tokenizer, tmp_path / "plain", 1200), "add_bos_token") is False
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    assert field(metadata(tokenizer, tmp_path / "begins", 1200), "add_bos_token") is True


def test_known_ways_of_splitting_have_llama_cpps_names(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(1200)
    assert field(metadata(tokenizer, tmp_path / "gpt2", 1200), "pre") == "gpt-2"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), BYTES]
    )
    assert field(metadata(tokenizer, tmp_path / "smollm", 1200), "pre") == "smollm"


@pytest.mark.parametrize(
    "split",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), BYTES]),
        pre_tokenizers.Metaspace(),
    ],
)
def test_other_ways_of_splitting_are_refused(
    tmp_path: Path, split: pre_tokenizers.PreTokenizer
) -> None:
    tokenizer = make_tokenizer(1200)
    tokenizer.backend_tokenizer.pre_tokenizer = split
    with pytest.raises(LoadError, match=r"--gguf"):
        metadata(tokenizer, tmp_path, 1200)


def test_a_normalizer_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(1200)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(LoadError, match=r"--gguf"):
        metadata(tokenizer, tmp_path, 1200)
