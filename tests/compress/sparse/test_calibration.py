"""Calibration text becomes token ids, or an error that says what is wrong with it."""

import json
import re

import pytest
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse import calibration_tokens

from ...chat_model import byte_tokenizer

TOKENIZER = byte_tokenizer()


def text_of(row):
    return TOKENIZER.decode(row)


def test_plain_text_in_pieces_spread_over_the_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{n:04d}" for n in range(100)) + "rest")
    tokens = calibration_tokens(file, TOKENIZER, samples=3, length=40)
    assert tokens.shape == (3, 40)
    assert [text_of(row)[:4] for row in tokens] == ["0000", "0040", "0090"]


def test_a_short_text_is_one_piece(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("short")
    assert [text_of(row) for row in calibration_tokens(file, TOKENIZER)] == ["short"]


def test_json_lines(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text("\n".join(json.dumps({"text": t, "n": 1}) for t in ("ab\n", "cd")) + "\n\n")
    assert text_of(calibration_tokens(file, TOKENIZER)[0]) == "ab\ncd"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt has only 0 tokens"),
        ("latin.txt", b"caf\xe9", "latin.txt is not UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\n{"text":', "broken.jsonl, line 2 is not valid JSON"),
        ("other.jsonl", b'{"prompt": "a"}', 'line 1 is not an object with a "text"'),
        ("list.jsonl", b'["a"]', 'line 1 is not an object with a "text"'),
    ],
)
def test_unusable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SparsityError, match=re.escape(message)):
        calibration_tokens(tmp_path / name, TOKENIZER)


def test_no_such_file(tmp_path):
    with pytest.raises(SparsityError, match=r"none.txt cannot be read: No such file"):
        calibration_tokens(tmp_path / "none.txt", TOKENIZER)
