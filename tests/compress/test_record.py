"""Records of prompts as they are written, now and by earlier releases."""

import json
from dataclasses import replace

import pytest
from gistserve.compress import record as record_module
from gistserve.compress.errors import PromptRecordError
from gistserve.compress.record import PromptRecord

from .store_samples import cache_of, record_of


def rewritten(data: bytes, change) -> bytes:
    """The record with fields changed, and a checksum that fits."""
    content = json.loads(data)
    change(content["record"])
    content["sha256"] = record_module._checksum(content["record"])
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("field", "value"), [("variables", ["who"]), ("ttl", 60.5), ("tools", [{"b": 1, "a": 2}])]
)
def test_a_record_without_a_later_field_is_one_of_an_earlier_release(field, value):
    chat = {"text": None, "messages": [{"role": "system", "content": "hello"}]}
    record = record_of([1, 2, 3], **chat).for_cache(cache_of([1, 2, 3]))
    old = rewritten(record.to_bytes(), lambda fields: fields.pop(field))
    assert PromptRecord.from_bytes(old) == record
    newer = record_of([1, 2, 3], **chat, **{field: value}).for_cache(cache_of([1, 2, 3]))
    assert getattr(PromptRecord.from_bytes(newer.to_bytes()), field) == value


def test_tools_keep_their_order_and_need_messages():
    chat = {"text": None, "messages": [{"role": "system", "content": "hello"}]}
    made = record_of([1, 2, 3], **chat, tools=[{"b": 1, "a": 2}]).for_cache(cache_of([1, 2, 3]))
    (tool,) = PromptRecord.from_bytes(made.to_bytes()).tools
    assert list(tool) == ["b", "a"]  # as templates will write it
    with pytest.raises(PromptRecordError, match="no tools"):
        record_of([1, 2, 3], tools=[])


def test_use_moves_the_expiry_of_a_record_with_a_ttl_alone():
    for ttl, expires_at in ((60, 160), (None, 130)):
        record = record_of([1, 2, 3], ttl=ttl, expires_at=130, requests=2, tokens_saved=6)
        used = record.used(tokens_saved=3, at=100)
        assert used == replace(
            record, requests=3, tokens_saved=9, last_used_at=100, expires_at=expires_at
        )


@pytest.mark.parametrize(
    "change", [lambda fields: fields.pop("model"), lambda fields: fields.update(colour=1)]
)
def test_other_missing_or_unknown_fields_are_refused(change):
    record = record_of([1, 2, 3]).for_cache(cache_of([1, 2, 3]))
    with pytest.raises(PromptRecordError, match="missing or unknown field"):
        PromptRecord.from_bytes(rewritten(record.to_bytes(), change))
