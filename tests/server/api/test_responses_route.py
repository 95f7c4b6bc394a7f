"""POST /v1/responses."""

import json
from typing import Any

import jsonschema
import pytest
from gistserve.server.api.answers import ResponseObject

from .conftest import GIST_MODEL, GIST_TOKENS, Site

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": GIST_MODEL, "temperature": 0, "max_output_tokens": 6, **fields}


async def respond(site: Site, **fields: Any) -> dict[str, Any]:
    response = await site.post(PATH, body_of(**fields))
    assert response.status_code == 200, response.text
    ResponseObject.model_validate(response.json())
    return response.json()


def text_of(response: dict[str, Any]) -> str:
    (item,) = response["output"]
    (part,) = item["content"]
    assert (item["type"], item["role"], part["type"]) == ("message", "assistant", "output_text")
    return part["text"]


async def test_it_answers_as_the_chat_does(site: Site) -> None:
    chat = await site.chat("Hello", max_tokens=6)
    found = await respond(site, input="Hello", metadata={"a": "b"}, store=True)
    assert text_of(found) == chat["choices"][0]["message"]["content"]
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    usage = found["usage"]
    assert usage["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert (usage["output_tokens"], usage["total_tokens"]) == (6, usage["input_tokens"] + 6)
    assert (found["metadata"], found["store"], found["temperature"]) == ({"a": "b"}, False, 0)


async def test_items_read_as_messages(site: Site) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    body = {"model": GIST_MODEL, "messages": messages, "temperature": 0, "max_tokens": 6}
    chat = (await site.post("/v1/chat/completions", body)).json()
    hello = [{"type": "input_text", "text": text} for text in ("Hello ", "there")]
    answer = [{"type": "output_text", "text": "Hi"}]
    items = [
        {"role": "user", "content": hello},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": answer},
        {"role": "user", "content": "Bye"},
    ]
    for fields in (
        {"instructions": "Be short.", "input": items},
        {"input": [{"role": "developer", "content": "Be short."}, *items]},
    ):
        found = await respond(site, **fields)
        assert text_of(found) == chat["choices"][0]["message"]["content"]
        assert found["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


async def test_a_registered_prompt_in_its_three_ways(site: Site) -> None:
    prompt = await site.register(name="short")
    ways = (
        {"prompt": {"id": prompt["id"], "version": "1"}},
        {"prompt_id": prompt["id"]},
        {"model": f"{GIST_MODEL}/short"},
    )
    found = [await respond(site, input="Hello", **way) for way in ways]
    assert {text_of(response) for response in found} == {
        (await site.chat("Hello", prompt_id=prompt["id"], max_tokens=6))["choices"][0]["message"][
            "content"
        ]
    }
    assert {response["prompt_id"] for response in found} == {prompt["id"]}
    details = found[0]["usage"]["input_tokens_details"]
    assert details["gist_tokens"] >= GIST_TOKENS and details["cached_tokens"] > 0
    assert text_of(await respond(site, prompt={"id": prompt["id"]})) is not None
    wrong = await site.post(PATH, body_of(input="a", prompt={"id": prompt["id"], "version": "2"}))
    assert wrong.status_code == 404


async def events_of(site: Site, **fields: Any) -> list[dict[str, Any]]:
    response = await site.post(PATH, body_of(stream=True, **fields))
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_events_come_in_the_official_order(site: Site) -> None:
    whole = await respond(site, input="Hello")
    found = await events_of(site, input="Hello")
    kinds = [event["type"].removeprefix("response.") for event in found]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    text = "".join(event["delta"] for event in found if "delta" in event)
    assert text == text_of(whole) == found[-4]["text"] == text_of(found[-1]["response"])
    item = found[-1]["response"]["output"][0]
    assert {event["item_id"] for event in found if "item_id" in event} == {item["id"]}
    assert found[0]["response"]["status"] == "in_progress" and not found[0]["response"]["output"]
    assert item["status"] == "incomplete"


async def test_logprobs_where_they_are_asked_for(site: Site) -> None:
    plain = await respond(site, input="Hello")
    assert plain["output"][0]["content"][0]["logprobs"] == []
    found = await respond(
        site, input="Hello", include=["message.output_text.logprobs"], top_logprobs=2
    )
    logprobs = found["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in logprobs) == text_of(found)
    assert all(len(entry["top_logprobs"]) == 2 for entry in logprobs)


async def test_text_in_a_format(site: Site) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    wanted = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    found = await respond(site, input="Hello", text=wanted, max_output_tokens=60)
    jsonschema.validate(json.loads(text_of(found)), schema)
    assert found["status"] == "completed" and found["text"] == wanted
    bad = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "x"}}}
    response = await site.post(PATH, body_of(input="Hello", text=bad))
    assert response.status_code == 400 and response.json()["error"]["param"] == "text"


async def test_a_failure_ends_the_stream_with_an_error(site: Site) -> None:
    engine = site.app.state.context.models.get(GIST_MODEL).engine
    execute = engine._core.runner.execute

    def fail(output: Any) -> Any:
        raise RuntimeError("broken")

    engine._core.runner.execute = fail
    try:
        found = await events_of(site, input="Hello")
    finally:
        engine._core.runner.execute = execute
    assert found[-1]["type"] == "error" and found[-1]["code"] == "engine_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": 1}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content"),
        ({"input": [{"type": "web_search_call"}]}, "input.0"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "n": 2}, "n"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x" * 1000}, "input"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0.name"),
        ({"input": "a", "tools": [{"type": "function", "name": "f"}]}, "tools"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    site: Site, fields: dict[str, Any], param: str
) -> None:
    response = await site.post(PATH, body_of(**fields))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
