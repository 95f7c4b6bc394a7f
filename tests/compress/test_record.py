"""Records of prompts as they are written, now and by earlier releases."""

import json

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


def test_a_record_without_variables_is_one_of_an_earlier_release():
    record = record_of([1, 2, 3]).for_cache(cache_of([1, 2, 3]))
    old = rewritten(record.to_bytes(), lambda fields: fields.pop("variables"))
    assert PromptRecord.from_bytes(old) == record
    named = record_of([1, 2, 3], variables=["who"]).for_cache(cache_of([1, 2, 3]))
    assert PromptRecord.from_bytes(named.to_bytes()).variables == ["who"]


@pytest.mark.parametrize(
    "change", [lambda fields: fields.pop("model"), lambda fields: fields.update(colour=1)]
)
def test_other_missing_or_unknown_fields_are_refused(change):
    record = record_of([1, 2, 3]).for_cache(cache_of([1, 2, 3]))
    with pytest.raises(PromptRecordError, match="missing or unknown field"):
        PromptRecord.from_bytes(rewritten(record.to_bytes(), change))
