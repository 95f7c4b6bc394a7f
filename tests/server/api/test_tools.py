"""`tools` and `tool_choice` on chat completions."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from gistserve.server.api import tool_schemas
from gistserve.server.api.answers import ChatCompletion
from gistserve.server.api.schemas import ChatMessage, plain_message
from gistserve.server.api.served_models import ServedModels
from tokenizers import AddedToken

from ...chat_model import CHAT_TEMPLATE, save_chat_model
from .conftest import GIST_MODEL, Loaded, Site, Sites, sse

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time"}},
]
HERMES_TEMPLATE = (
    "{% if tools %}{{ '<|system|>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    '<tool_call>{"name": , "arguments": }</tool_call>{{ eos_token }}{% endif %}'
    "{% for message in messages %}{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' + (call.function.arguments | tojson) }}{% endfor %}{% endfor %}"
) + CHAT_TEMPLATE
LLAMA_TEMPLATE = (
    '{% if tools %}{{ tools | tojson }}{"name": , "parameters": }{% endif %}' + CHAT_TEMPLATE
)


def load(name: str, folder: Path, template: str, *, marks: bool = False) -> Loaded:
    loaded = Loaded.load(name, save_chat_model(folder, seed=4, adapter=False))
    loaded.tokenizer.chat_template = template
    if marks:  # special tokens, as in some models, so that their text is left out
        added = [AddedToken(mark, special=True) for mark in ("<tool_call>", "</tool_call>")]
        loaded.tokenizer.add_tokens(added, special_tokens=True)
        loaded.model.resize_token_embeddings(len(loaded.tokenizer), mean_resizing=False)
    return loaded


@pytest.fixture(scope="module")
def tool_models(
    gist_loaded: Loaded, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedModels]:
    models = [
        load("hermes", tmp_path_factory.mktemp("a"), HERMES_TEMPLATE).serve(max_model_len=1024),
        load("marked", tmp_path_factory.mktemp("b"), HERMES_TEMPLATE, marks=True).serve(
            max_model_len=1024
        ),
        load("llama", tmp_path_factory.mktemp("c"), LLAMA_TEMPLATE).serve(max_model_len=1024),
        gist_loaded.serve(),
    ]
    yield ServedModels(models)
    for model in models:
        model.engine.shutdown()


@pytest.fixture
async def site(tool_models: ServedModels, tmp_path: Path) -> AsyncIterator[Site]:
    async with Sites(tool_models, tmp_path / "store").open() as opened:
        yield opened


def body_of(**fields: Any) -> dict[str, Any]:
    return {
        "model": "hermes",
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": TOOLS[:1],
        "max_tokens": 120,
        "temperature": 1.2,
        "seed": 3,
        **fields,
    }


async def ask(site: Site, **fields: Any) -> dict[str, Any]:
    response = await site.post("/v1/chat/completions", body_of(**fields))
    assert response.status_code == 200, response.text
    ChatCompletion.model_validate(response.json())
    return response.json()["choices"][0]


@pytest.mark.parametrize("model", ["hermes", "marked", "llama"])
async def test_a_named_call_follows_its_schema(site: Site, model: str) -> None:
    choice = await ask(
        site,
        model=model,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["function"]["name"] == "get_weather"
    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)


@pytest.mark.parametrize("model", ["hermes", "marked", "llama"])
async def test_streamed_deltas_add_up_to_the_whole(site: Site, model: str) -> None:
    fields = {"model": model, "tool_choice": "required", "parallel_tool_calls": False}
    whole = await ask(site, **fields)
    response = await site.post("/v1/chat/completions", body_of(stream=True, **fields))
    chunks = [chunk["choices"][0] for chunk in sse(response)]
    assert chunks[0]["delta"]["role"] == "assistant"
    deltas = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", [])]
    assert [delta["index"] for delta in deltas] == [0] * len(deltas)
    (begun,) = [delta for delta in deltas if "id" in delta]
    (expected,) = whole["message"]["tool_calls"]
    assert begun["function"]["name"] == expected["function"]["name"]
    text = "".join(delta["function"]["arguments"] for delta in deltas)
    assert text == expected["function"]["arguments"]
    assert len(deltas) > 2
    assert "".join(chunk["delta"]["content"] for chunk in chunks) == ""
    assert chunks[-1]["finish_reason"] == whole["finish_reason"] == "tool_calls"


async def test_several_calls_where_they_are_allowed(site: Site) -> None:
    # It is kept from ending, and cut where it is in another call.
    choice = await ask(site, tool_choice="required", max_tokens=200, logit_bias={"2": -100})
    *whole, _ = choice["message"]["tool_calls"]
    assert whole
    for call in whole:
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == len(ids)


async def test_auto_takes_calls_out_of_a_free_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = await ask(site, tool_choice="auto", temperature=0, max_tokens=8)
    assert "tool_calls" not in free["message"] and free["message"]["content"]
    assert free["finish_reason"] == "length"
    # A random model calls nothing by itself.
    monkeypatch.setattr(tool_schemas.ToolUse, "_forced", lambda use, _: use.functions)
    called = await ask(site, parallel_tool_calls=False)
    assert called["message"]["tool_calls"] and called["finish_reason"] == "tool_calls"


async def test_free_calls_of_strict_functions_follow_their_schemas(site: Site) -> None:
    strict = {**TOOLS[0]["function"], "strict": True}
    fields = {
        "model": "marked",
        "tools": [{"type": "function", "function": strict}, TOOLS[1]],
        "logit_bias": call_bias(site),
        "max_tokens": 200,
    }
    calls = (await ask(site, **fields))["message"]["tool_calls"]
    assert len(calls) > 1
    for call in calls[:-1]:  # the last one is cut
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "get_weather":
            jsonschema.validate(arguments, WEATHER)
        assert isinstance(arguments, dict)
    choice = await ask(site, **fields, parallel_tool_calls=False)
    assert choice["finish_reason"] == "tool_calls"
    assert len(choice["message"]["tool_calls"]) == 1


async def test_one_call_is_the_last_word_where_more_are_not_wanted(site: Site) -> None:
    fields = {"model": "marked", "logit_bias": call_bias(site), "max_tokens": 400}
    response = await site.post("/v1/chat/completions", body_of(**fields, parallel_tool_calls=False))
    answer = response.json()
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert answer["usage"]["completion_tokens"] < 400


def call_bias(site: Site) -> dict[str, float]:
    """Makes a random model begin calls, whose mark is a token of its own."""
    known = site.app.state.context.models.get("marked").tokenizer.get_vocab()
    return {str(known["<tool_call>"]): 100.0}


async def test_none_renders_the_tools_but_takes_no_call(site: Site) -> None:
    auto = await ask(site, temperature=0, max_tokens=8)
    none = await ask(site, temperature=0, max_tokens=8, tool_choice="none")
    without = await ask(site, temperature=0, max_tokens=8, tools=None)
    assert none["message"]["content"] == auto["message"]["content"].strip()
    assert without["message"]["content"] != none["message"]["content"]


async def test_a_format_is_for_answers_that_are_no_calls(site: Site) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"enum": ["sunny", "wet"]}}}
    reasons = set()
    for seed in range(4):
        choice = await ask(
            site, response_format=wanted, seed=seed, temperature=5.0, parallel_tool_calls=False
        )
        reasons.add(choice["finish_reason"])
        if choice["finish_reason"] == "stop":
            assert json.loads(choice["message"]["content"]) in ("sunny", "wet")
        else:
            assert choice["message"]["tool_calls"]
    assert reasons == {"stop", "tool_calls"}


async def test_results_of_calls_are_rendered(site: Site) -> None:
    call = {"name": "get_weather", "arguments": '{"city": "Oslo", "days": 2}'}
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert (await ask(site, messages=messages, max_tokens=4))["message"]["content"]
    renderer = site.app.state.context.desks["hermes"].renderer
    plain = [plain_message(ChatMessage(**message)) for message in messages]
    tokens = await renderer.chat(plain, generation_prompt=True)
    assert '<tool_call>{"city": "Oslo", "days": 2}' in await renderer.decode(tokens)


async def test_responses_have_calls_as_items(site: Site) -> None:
    flat = {"type": "function", **TOOLS[0]["function"]}
    body = {
        "model": "hermes",
        "input": "Weather?",
        "tools": [flat],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "max_output_tokens": 120,
        "seed": 3,
    }
    whole = (await site.post("/v1/responses", body)).json()
    (call,) = whole["output"]
    assert (call["type"], call["name"], call["status"]) == (
        "function_call",
        "get_weather",
        "completed",
    )
    jsonschema.validate(json.loads(call["arguments"]), WEATHER)
    stream = (await site.post("/v1/responses", {**body, "stream": True})).text
    events = [json.loads(line[6:]) for line in stream.split("\n") if line.startswith("data: ")]
    deltas = [e["delta"] for e in events if e["type"].endswith("function_call_arguments.delta")]
    assert "".join(deltas) == call["arguments"]
    assert [e["type"].removeprefix("response.") for e in events if "delta" not in e] == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    follow = {**body, "input": [{"role": "user", "content": "Weather?"}, call, output]}
    follow |= {"tool_choice": "none", "max_output_tokens": 4}
    answer = await site.post("/v1/responses", follow)
    assert answer.json()["output"][0]["type"] == "message"
    assert answer.json()["usage"]["input_tokens"] > whole["usage"]["input_tokens"]


async def test_tools_that_break_a_registered_prompt_are_refused(site: Site) -> None:
    prompt = await site.register(model="hermes", compression="prefix")
    response = await site.post("/v1/chat/completions", body_of(prompt_id=prompt["id"]))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "template_not_prefix")
    assert "registered without" in error["message"]
    await ask(site, prompt_id=prompt["id"], tools=None, max_tokens=2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": GIST_MODEL}, "tools"),
        ({"tools": [{"type": "browser"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools"),
        ({"tools": TOOLS * 65}, "tools"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        (
            {
                "tool_choice": "required",
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}
                ],
            },
            "tools",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused(
    site: Site, fields: dict[str, Any], param: str
) -> None:
    response = await site.post("/v1/chat/completions", body_of(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)
