"""Which prompts a server must have, may have and must not have."""

from typing import Any

import pytest
from gistserve.bench.soak.ledger import LedgerEntry, PromptLedger


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> PromptLedger:
    return PromptLedger(clock)


def register(ledger: PromptLedger, prompt: int = 3, **resource: Any) -> LedgerEntry:
    ttl = resource.pop("ttl", None)
    ledger.acknowledged(prompt, {"id": f"pmpt_{prompt}", "expires_at": None, **resource}, ttl)
    entry = ledger.find(prompt)
    assert entry is not None
    return entry


def test_a_prompt_without_expiry_must_exist_until_it_is_deleted(ledger: PromptLedger) -> None:
    entry = register(ledger)
    assert ledger.must_exist(entry) and not ledger.must_be_gone(entry)
    entry.deleting = True
    assert not ledger.must_exist(entry) and not ledger.must_be_gone(entry)
    entry.deleted = True
    assert ledger.must_be_gone(entry) and not ledger.may_hold("pmpt_3")


def test_each_use_lengthens_the_latest_end_but_not_what_is_sure(
    ledger: PromptLedger, clock: Clock
) -> None:
    entry = register(ledger, expires_at=1010, ttl=10.0)
    clock.now = 1007.0
    assert ledger.must_exist(entry)
    ledger.touch(entry)
    clock.now = 1013.0
    assert not ledger.must_exist(entry) and not ledger.must_be_gone(entry)
    assert ledger.may_hold("pmpt_3")
    clock.now = 1020.0
    assert ledger.must_be_gone(entry) and not ledger.may_hold("pmpt_3")


def test_a_kill_may_lengthen_a_life(ledger: PromptLedger, clock: Clock) -> None:
    entry, lasting = register(ledger, expires_at=1010, ttl=10.0), register(ledger, 4)
    ledger.killed()
    clock.now = 1041.0
    assert not ledger.must_exist(entry) and not ledger.must_be_gone(entry)
    clock.now = 1043.0
    assert ledger.must_be_gone(entry) and not ledger.must_be_gone(lasting)


def test_a_lost_registration_leaves_everything_open(ledger: PromptLedger, clock: Clock) -> None:
    entry = register(ledger, expires_at=1010, ttl=10.0)
    assert not ledger.may_hold("pmpt_unknown")
    ledger.doubt(3)
    clock.now = 2000.0
    assert not ledger.must_be_gone(entry)
    assert ledger.may_hold("pmpt_unknown")
    again = register(ledger, id="pmpt_new")
    assert not ledger.may_hold("pmpt_unknown")
    assert ledger.must_exist(again) and not ledger.must_exist(entry)
