"""Every rule that a reply can break is noticed, and what the server's end explains is not."""

import random
from typing import Any

import pytest
from gistserve.bench.soak.catalogue import (
    NUM_KEPT,
    SoakRequest,
    soak_prompts,
    soak_requests,
)
from gistserve.bench.soak.client import Reply
from gistserve.bench.soak.findings import Findings
from gistserve.bench.soak.ledger import LedgerEntry, PromptLedger
from gistserve.bench.soak.report import report_lines
from gistserve.bench.soak.workers import Load

REQUEST = SoakRequest(0, "How?", 16)


class Server:
    life = 1
    ending: str | None = None


@pytest.fixture
def load() -> Load:
    prompts = soak_prompts()
    return Load(
        client=None,  # type: ignore[arg-type]
        server=Server(),  # type: ignore[arg-type]
        ledger=PromptLedger(),
        findings=Findings(),
        prompts=prompts,
        answers={REQUEST: "right"},
        rng=random.Random(0),
    )


def entry_of(load: Load) -> LedgerEntry:
    load.ledger.acknowledged(0, {"id": "pmpt_0", "expires_at": None}, None)
    entry = load.ledger.find(0)
    assert entry is not None
    return entry


REPLIES = [
    (Reply(200, "right"), None, None),
    (Reply(200, "wrong"), None, "an answer is not the quiet server's"),
    (Reply(200, "wrong"), "SIGKILL", "an answer is not the quiet server's"),
    (Reply(404, error="prompt_not_found"), None, "a prompt was lost"),
    (Reply(429, error="queue_full", retry_after="3"), None, None),
    (Reply(429, error="queue_full"), None, "a 429 without Retry-After"),
    (Reply(500, error="engine_error"), None, "a request failed"),
    (Reply(503, error="shutting_down"), None, "a request failed"),
    (Reply(503, error="shutting_down"), "SIGTERM", None),
    (Reply(200, error="shutting_down"), "SIGTERM", None),
    (Reply(200, cut=True), "SIGKILL", None),
    (Reply(200, cut=True), "SIGTERM", "a request failed"),
    (Reply(0, error="ServerDisconnectedError"), "SIGTERM", None),
    (Reply(0, error="ServerDisconnectedError"), None, "a request failed"),
    (Reply(0, error="left"), None, None),
]


@pytest.mark.parametrize(("reply", "ending", "rule"), REPLIES)
def test_replies(load: Load, reply: Reply, ending: str | None, rule: str | None) -> None:
    entry = entry_of(load)
    load.server.ending = ending
    load.judge(REQUEST, entry, reply, life=1)
    assert [v["rule"] for v in load.findings.violations] == ([rule] if rule else [])
    assert load.findings.num_violations == int(rule is not None)


def test_a_prompt_may_be_gone_once_it_has_expired(load: Load) -> None:
    load.ledger.acknowledged(0, {"id": "pmpt_0", "expires_at": 1}, 1.0)
    load.judge(REQUEST, load.ledger.find(0), Reply(404), life=1)
    assert not load.findings.violations


def test_a_restart_explains_what_began_before_it(load: Load) -> None:
    load.server.life = 2
    load.judge(REQUEST, entry_of(load), Reply(0, error="ClientConnectorError"), life=1)
    assert not load.findings.violations


def test_the_catalogue_has_different_prompts_and_requests_behind_each() -> None:
    prompts = soak_prompts()
    assert len({prompt.text for prompt in prompts}) == len(prompts) > NUM_KEPT
    assert {prompt.method for prompt in prompts if prompt.expires} == {"gist", "prefix"}
    requests = list(soak_requests(prompts))
    assert {request.prompt for request in requests} == {None, *range(len(prompts))}


def test_the_report_names_each_rule_once(load: Load) -> None:
    for _ in range(3):
        load.findings.violate("blocks are leaked", used_blocks=3)
    figures: dict[str, Any] = {
        "outcomes": {"answered": 5},
        "lives": [{"ended_by": "SIGKILL"}, {}],
        "memory": {"is_flat": True, "rise_bytes": 0.0, "bytes_per_second": 0.0},
        "health_ms": {"p50": 1.0, "p99": 2.0, "count": 3},
        "violations": load.findings.violations,
        "num_violations": 3,
    }
    lines = [line for line in report_lines(figures) if "VIOLATION" in line]
    assert len(lines) == 1 and "3 times" in lines[0] and "used_blocks" in lines[0]
