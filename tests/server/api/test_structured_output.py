"""`response_format` on chat and text completions."""

import json
from typing import Any

import jsonschema
import pytest

from .conftest import GIST_MODEL, Site, sse

pytestmark = pytest.mark.anyio

TICKET = {
    "type": "object",
    "properties": {
        "team": {"enum": ["billing", "shipping"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 3},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["team", "urgency", "words"],
    "additionalProperties": False,
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "ticket", "schema": TICKET, "strict": True},
}


def body_of(**fields: Any) -> dict[str, Any]:
    return {
        "model": GIST_MODEL,
        "messages": [{"role": "user", "content": "Where is my parcel?"}],
        "max_tokens": 200,
        "temperature": 1.3,
        "response_format": FORMAT,
        **fields,
    }


async def test_every_choice_follows_the_schema(site: Site) -> None:
    answer = (await site.post("/v1/chat/completions", body_of(n=4, seed=1))).json()
    found = [json.loads(choice["message"]["content"]) for choice in answer["choices"]]
    for ticket in found:
        jsonschema.validate(ticket, TICKET)
    assert len({json.dumps(ticket) for ticket in found}) > 1
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}


async def test_a_stream_holds_the_same_text(site: Site) -> None:
    whole = (await site.post("/v1/chat/completions", body_of(seed=5))).json()
    chunks = sse(await site.post("/v1/chat/completions", body_of(seed=5, stream=True)))
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len(chunks) == whole["usage"]["completion_tokens"]


async def test_it_works_behind_a_gist_and_for_text(site: Site) -> None:
    prompt = await site.register()
    answer = await site.post("/v1/chat/completions", body_of(prompt_id=prompt["id"]))
    assert answer.json()["usage"]["prompt_tokens_details"]["gist_tokens"] > 0
    jsonschema.validate(json.loads(answer.json()["choices"][0]["message"]["content"]), TICKET)
    text = await site.post("/v1/completions", body_of(prompt="Ticket: "))
    jsonschema.validate(json.loads(text.json()["choices"][0]["text"]), TICKET)


async def test_any_object(site: Site) -> None:
    for wanted in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a"}}):
        answer = (await site.post("/v1/chat/completions", body_of(response_format=wanted))).json()
        choice = answer["choices"][0]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        assert choice["message"]["content"].startswith("{")
    plain = body_of(response_format={"type": "text"}, temperature=0)
    free = await site.post("/v1/chat/completions", body_of(response_format=None, temperature=0))
    same = await site.post("/v1/chat/completions", plain)
    assert same.json()["choices"] == free.json()["choices"]


async def test_a_stop_string_and_a_limit_still_end_it(site: Site) -> None:
    stopped = (await site.post("/v1/chat/completions", body_of(stop='"urg'))).json()["choices"][0]
    text = stopped["message"]["content"]
    assert '"team"' in text and '"urg' not in text
    assert stopped["finish_reason"] == "stop"
    cut = (await site.post("/v1/chat/completions", body_of(max_tokens=5))).json()["choices"][0]
    assert cut["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"type": "xml"}, "json_schema"),
        ({}, "required"),
        ("json", "object"),
        ({"type": "json_schema"}, "needs json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": []}}, "dictionary"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "ticket"}}}, "ticket"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "not"),
    ],
)
async def test_bad_formats_are_refused_with_the_reason(
    site: Site, wanted: Any, reason: str
) -> None:
    for path, prompt in (("/v1/chat/completions", {}), ("/v1/completions", {"prompt": "a"})):
        response = await site.post(path, body_of(response_format=wanted, **prompt))
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"].startswith("response_format")
        assert reason in error["message"]


async def test_a_deep_schema_is_refused(site: Site) -> None:
    depth = 500
    schema = '{"properties":{"a":' * depth + "{}" + "}}" * depth
    wanted = '{"type":"json_schema","json_schema":{"schema":' + schema + "}}"
    raw = json.dumps(body_of(response_format="HERE")).replace('"HERE"', wanted)
    response = await site.client.post("/v1/chat/completions", content=raw.encode())
    assert response.status_code in (200, 400)
    assert (await site.chat("Hi"))["choices"]
