"""POST /v1/chat/completions."""

import json
from typing import Any

import httpx
import pytest
from gistserve.server.api.schemas import ChatBody

from .conftest import GIST_MODEL, MAX_MODEL_LEN, PLAIN_MODEL, Loaded, Site, sse

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"


def rendered(loaded: Loaded, *texts: str) -> list[int]:
    messages = [{"role": "user", "content": text} for text in texts]
    return loaded.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )


async def stream(site: Site, **fields: Any) -> list[dict[str, Any]]:
    body = {
        "model": GIST_MODEL,
        "messages": [{"role": "user", "content": "What is the time?"}],
        "temperature": 0,
        "max_tokens": 12,
        "stream": True,
        **fields,
    }
    response = await site.post(PATH, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return sse(response)


async def test_greedy_answer_is_that_of_transformers(site: Site, gist_loaded: Loaded) -> None:
    body = await site.chat("What is the time?", max_tokens=12)
    prompt = rendered(gist_loaded, "What is the time?")
    expected = gist_loaded.tokenizer.decode(
        gist_loaded.greedy(prompt, 12), skip_special_tokens=True
    )
    choice = body["choices"][0]
    assert choice["message"]["content"] == expected.rstrip("\ufffd")
    assert choice["finish_reason"] == "length"
    assert body["model"] == GIST_MODEL
    assert "prompt_id" not in body
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 12,
        "total_tokens": len(prompt) + 12,
        "prompt_tokens_details": {"cached_tokens": 0, "gist_tokens": 0},
    }


async def test_nulls_and_unknown_fields_change_nothing(site: Site) -> None:
    plain = await site.chat("hi")
    # What the engine and the routes read; all of them optional.
    optional = ChatBody.model_fields.keys() - {"model", "messages", "temperature", "max_tokens"}
    nulls = dict.fromkeys(optional | {"response_format", "tools"})
    same = await site.chat("hi", **nulls, store=True, reasoning_effort="low", something={"a": [1]})
    assert same["choices"] == plain["choices"]


async def test_text_parts_read_as_their_text(site: Site) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "the time?"}]
    messages = [{"role": "user", "content": parts}]
    body = {"model": GIST_MODEL, "messages": messages, "temperature": 0, "max_tokens": 8}
    response = await site.post(PATH, body)
    assert response.json()["choices"] == (await site.chat("What is the time?"))["choices"]


async def test_a_stream_has_one_chunk_a_token_then_usage(site: Site) -> None:
    whole = await site.chat("What is the time?", max_tokens=12)
    chunks = await stream(site, stream_options={"include_usage": True})
    tokens, usage = chunks[:-1], chunks[-1]
    assert len(tokens) == 12
    assert [c["choices"][0]["finish_reason"] for c in tokens] == [None] * 11 + ["length"]
    assert tokens[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in c["choices"][0]["delta"] for c in tokens[1:])
    text = "".join(c["choices"][0]["delta"]["content"] for c in tokens)
    assert text == whole["choices"][0]["message"]["content"]
    assert usage["choices"] == []
    # The second request of the same prompt finds it in the prefix cache.
    assert usage["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert usage["usage"]["completion_tokens"] == 12
    assert all(c["usage"] is None for c in tokens)
    assert len({c["id"] for c in chunks}) == 1
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


async def test_usage_comes_only_when_asked_for(site: Site) -> None:
    chunks = await stream(site)
    assert len(chunks) == 12
    assert not any("usage" in chunk for chunk in chunks)


async def test_continuous_usage_counts_up(site: Site) -> None:
    chunks = await stream(site, stream_options={"continuous_usage_stats": True})
    assert [c["usage"]["completion_tokens"] for c in chunks] == list(range(1, 13))


async def test_stop_strings_end_the_text_over_token_borders(site: Site) -> None:
    whole = (await site.chat("Tell me", max_tokens=40))["choices"][0]["message"]["content"]
    stop = whole[3:6]  # one token a byte: split over at least three
    before = whole[: whole.index(stop)]
    body = await site.chat("Tell me", max_tokens=40, stop=["never", stop])
    assert body["choices"][0]["message"]["content"] == before
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 40
    messages = [{"role": "user", "content": "Tell me"}]
    chunks = await stream(site, messages=messages, max_tokens=40, stop=stop)
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == before
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_end_of_text_stops_unless_ignored(site: Site, gist_loaded: Loaded) -> None:
    eos = {str(gist_loaded.tokenizer.eos_token_id): 100}
    body = await site.chat("hi", logit_bias=eos)
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 1
    body = await site.chat("hi", logit_bias=eos, ignore_eos=True)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 8


async def test_n_choices_differ_and_repeat_with_their_seed(site: Site) -> None:
    fields = {"n": 3, "temperature": 1.5, "seed": 11, "max_tokens": 10}
    first = await site.chat("hello", **fields)
    again = await site.chat("hello", **fields)
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert first["usage"]["completion_tokens"] == 30
    assert first["usage"]["prompt_tokens"] == (await site.chat("hello"))["usage"]["prompt_tokens"]
    chunks = await stream(site, messages=[{"role": "user", "content": "hello"}], **fields)
    assert len(chunks) == 30
    streamed = ["", "", ""]
    for chunk in chunks:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"]["content"]
    assert streamed == texts


async def test_logprobs_name_each_token_and_its_rivals(site: Site) -> None:
    body = await site.chat("hi", logprobs=True, top_logprobs=3, max_tokens=6)
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for entry in content:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy
        assert len(entry["bytes"]) == 1  # one token a byte
    shown = bytes(byte for entry in content for byte in entry["bytes"]).decode("utf-8", "ignore")
    assert body["choices"][0]["message"]["content"].startswith(shown[:1])
    chunks = await stream(
        site, messages=[{"role": "user", "content": "hi"}], max_tokens=6, logprobs=True
    )
    streamed = [c["choices"][0]["logprobs"]["content"][0]["logprob"] for c in chunks]
    assert streamed == pytest.approx([entry["logprob"] for entry in content], abs=1e-4)


async def test_both_names_of_the_token_limit(site: Site) -> None:
    assert (await site.chat("a", max_tokens=5))["usage"]["completion_tokens"] == 5
    body = await site.chat("a", max_tokens=None, max_completion_tokens=3)
    assert body["usage"]["completion_tokens"] == 3
    body = await site.chat("a", max_tokens=9, max_completion_tokens=3)
    assert body["usage"]["completion_tokens"] == 3


async def test_without_a_limit_the_answer_fills_the_context(site: Site) -> None:
    body = await site.chat("a", max_tokens=None, ignore_eos=True)
    assert body["usage"]["total_tokens"] == MAX_MODEL_LEN


async def test_the_model_field_chooses(site: Site) -> None:
    assert (await site.chat("a", model=PLAIN_MODEL))["model"] == PLAIN_MODEL
    assert (await site.chat("a", model=None))["model"] == GIST_MODEL


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"model": f"{GIST_MODEL}/nothing"}, 404, "model"),
        ({"prompt_id": "pmpt_0123456789abcdef"}, 404, "prompt_id"),
        ({"prompt": {"id": "../../etc/passwd"}}, 404, "prompt_id"),
        ({"messages": []}, 400, "messages"),
        ({"messages": None}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"content": "no role"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"temperature": "0.5"}, 400, "temperature"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"top_p": 1.5}, 400, "top_p"),
        ({"top_k": -7}, 400, "top_k"),
        ({"min_p": 2}, 400, "min_p"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 1.5}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"max_tokens": 10**400}, 400, "messages"),
        ({"temperature": 10**400}, 400, "temperature"),
        ({"n": 0}, 400, "n"),
        ({"n": 100_000}, 400, "n"),
        ({"seed": "x"}, 400, "seed"),
        ({"seed": 2**80}, 400, "seed"),
        ({"stop": [1]}, 400, "stop"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["x"] * 1000}, 400, "stop"),
        ({"logit_bias": {"word": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"3": 1000}}, 400, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, 400, None),
        ({"top_logprobs": 3}, 400, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 99}, 400, "top_logprobs"),
        ({"presence_penalty": 9}, 400, "presence_penalty"),
        ({"repetition_penalty": 0}, 400, "repetition_penalty"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, 400, "stream_options.include_usage"),
        ({"tools": [{"type": "function"}]}, 400, "tools.0.function"),
    ],
)
async def test_bad_values_are_named(
    site: Site, fields: dict[str, Any], status: int, param: str | None
) -> None:
    body = {"model": GIST_MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}
    raw = json.dumps(body)  # httpx refuses lone surrogates; a hostile client does not
    response = await site.client.post(
        PATH, content=raw, headers={"content-type": "application/json"}
    )
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    await site.chat("still there")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [',
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages": NaN}',
    ],
)
async def test_bodies_that_are_no_json_object(site: Site, raw: bytes) -> None:
    response = await site.client.post(
        PATH, content=raw, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields", [{"messages": [{"role": "user", "content": "x" * 600}]}, {"max_tokens": 500}]
)
async def test_too_long(site: Site, fields: dict[str, Any]) -> None:
    body = {"model": GIST_MODEL, "messages": [{"role": "user", "content": "x" * 30}], **fields}
    response = await site.post(PATH, body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(
        f"This model's maximum context length is {MAX_MODEL_LEN} tokens."
    )
    assert error["code"] == "context_length_exceeded"


async def test_json_without_a_content_type_is_read(site: Site) -> None:
    body = {"model": GIST_MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    request = httpx.Request("POST", f"http://test{PATH}", content=json.dumps(body).encode())
    assert "content-type" not in request.headers
    assert (await site.client.send(request)).status_code == 200
