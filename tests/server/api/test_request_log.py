"""Every request has an id and leaves one line, which tells what it cost and nothing it said."""

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gistserve.server.api.authentication import owner_of_key
from gistserve.server.api.generation import Generation
from gistserve.server.logs import current_request

from .conftest import GIST_MODEL, Site, Sites

pytestmark = pytest.mark.anyio

SECRET = "the wombats are at the gate"
CHAT = {"model": GIST_MODEL, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """What the request lines that were logged say, oldest first."""
    caplog.set_level(logging.INFO, "gistserve")

    def read() -> list[dict[str, Any]]:
        return [record.fields for record in caplog.records if record.message == "request"]

    yield read
    assert SECRET not in caplog.text and "sk-key" not in caplog.text


async def test_a_line_tells_what_a_request_cost(site: Site, lines) -> None:
    answer = await site.client.post("/v1/chat/completions", json=CHAT)
    usage = answer.json()["usage"]
    (line,) = lines()
    assert line.pop("e2e_ms") >= line.pop("ttft_ms") > 0
    assert line == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "error": None,
        "key": None,
        "model": GIST_MODEL,
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": 0,
        "gist_tokens": 0,
        "completion_tokens": 3,
        "finish_reason": "length",
    }


async def test_registered_prompts_are_told_by_their_slots(site: Site, lines) -> None:
    prompt = await site.register(
        messages=[{"role": "system", "content": SECRET * 3}], compression="gist"
    )
    answer = await site.client.post("/v1/chat/completions", json=CHAT | {"prompt_id": prompt["id"]})
    details = answer.json()["usage"]["prompt_tokens_details"]
    line = lines()[-1]
    assert line["gist_tokens"] == details["gist_tokens"] > 0
    assert line["cached_tokens"] == details["cached_tokens"] > 0


async def test_a_stream_is_told_when_it_has_ended(site: Site, lines) -> None:
    body = CHAT | {"stream": True, "n": 2}
    answer = await site.client.post("/v1/chat/completions", json=body)
    assert answer.text.endswith("data: [DONE]\n\n")
    (line,) = lines()
    assert (line["status"], line["completion_tokens"], line["finish_reason"]) == (200, 6, "length")


async def test_errors_are_told_by_their_code(site: Site, lines) -> None:
    answer = await site.client.post("/v1/chat/completions", json=CHAT | {"model": SECRET})
    assert answer.status_code == 404
    await site.client.post("/v1/chat/completions", content=b"{")
    await site.client.get("/nothing?key=sk-key")
    assert [(line["status"], line["error"]) for line in lines()] == [
        (404, "model_not_found"),
        (400, "invalid_json"),
        (404, None),
    ]
    assert lines()[-1]["path"] == "/nothing"


async def test_a_key_is_told_by_a_hash(sites: Sites, lines) -> None:
    async with sites.open(api_keys=("sk-key",)) as site:
        headers = {"Authorization": "Bearer sk-key"}
        await site.client.post("/v1/chat/completions", json=CHAT, headers=headers)
        await site.client.post("/v1/chat/completions", json=CHAT)
    known, unknown = lines()
    assert known["key"] == owner_of_key("sk-key")[:8]
    assert (unknown["status"], unknown["error"], unknown["key"]) == (401, "invalid_api_key", None)


@pytest.mark.parametrize("sent", ["abc-1", "req_4f/2:a=b", "x" * 128])
async def test_a_client_s_own_id_is_kept(site: Site, caplog, sent: str) -> None:
    caplog.set_level(logging.INFO, "gistserve")
    headers = {"X-Request-Id": sent}
    answer = await site.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.headers.get_list("x-request-id") == [sent]
    refused = await site.client.post("/v1/chat/completions", json={}, headers=headers)
    assert refused.status_code == 400 and refused.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", [None, "", "two words", 'a"b', "x" * 129, "ä", "a\tb"])
async def test_an_id_is_made_where_none_can_be_kept(site: Site, sent: str | None) -> None:
    headers = {} if sent is None else {"X-Request-Id": sent.encode("latin-1")}
    first = await site.client.get("/v1/models", headers=headers)
    second = await site.client.get("/v1/models", headers=headers)
    ids = {first.headers["x-request-id"], second.headers["x-request-id"]}
    assert len(ids) == 2 and all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in ids)


async def test_an_unexpected_error_is_logged_under_its_id(site: Site, caplog, monkeypatch) -> None:
    seen = []

    def broken(*_: Any) -> None:
        seen.append(current_request())
        raise RuntimeError("broken inside")

    monkeypatch.setattr("gistserve.server.api.chat.check_fits", broken)
    caplog.set_level(logging.INFO, "gistserve")
    answer = await site.client.post(
        "/v1/chat/completions", json=CHAT, headers={"X-Request-Id": "mine"}
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
    assert answer.json()["error"]["type"] == "server_error" and seen == ["mine"]
    assert "broken" not in answer.text
    failed, request = [record for record in caplog.records if record.name.endswith("request_log")]
    assert "broken inside" in str(failed.exc_info) and request.levelname == "WARNING"
    assert (request.fields["status"], request.fields["error"]) == (500, "internal_error")


async def test_a_stream_that_fails_is_told_by_its_code(site: Site, caplog, monkeypatch) -> None:
    async def broken(_: Generation) -> AsyncIterator[None]:
        raise RuntimeError("broken inside")
        yield

    monkeypatch.setattr(Generation, "batches", broken)
    caplog.set_level(logging.INFO, "gistserve")
    answer = await site.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.status_code == 200 and "server_error" in answer.text
    (line,) = [record for record in caplog.records if record.message == "request"]
    assert line.levelname == "WARNING"
    assert (line.fields["error"], line.fields["finish_reason"]) == ("internal_error", "abort")


async def test_probes_do_not_fill_the_log(site: Site, caplog) -> None:
    caplog.set_level(logging.INFO, "gistserve")
    for path in ("/health", "/metrics"):
        assert (await site.client.get(path)).status_code == 200
    assert not [record for record in caplog.records if record.message == "request"]
