"""Prompts that are registered with the tools that chats with them may call."""

from collections.abc import Iterator
from typing import Any

import pytest
from gistserve.server.api.served_models import ServedModels

from ...chat_model import save_chat_model
from .conftest import GIST_MODEL, GIST_TOKENS, Loaded, Site, Sites
from .test_tools import HERMES_TEMPLATE, LLAMA_TEMPLATE, TOOLS, load

pytestmark = pytest.mark.anyio

PROMPTS = "/v1/prompts"
CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You know the weather."}
USER = {"role": "user", "content": "Oslo?"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    folder = save_chat_model(tmp_path_factory.mktemp("gist"), seed=4, gists=GIST_TOKENS)
    gist = Loaded.load("gist", folder)
    gist.tokenizer.chat_template = HERMES_TEMPLATE
    return {
        "hermes": load("hermes", tmp_path_factory.mktemp("a"), HERMES_TEMPLATE),
        "llama": load("llama", tmp_path_factory.mktemp("b"), LLAMA_TEMPLATE),
        "gist": gist,
    }


@pytest.fixture(scope="module")
def served(loaded: dict[str, Loaded], gist_loaded: Loaded) -> Iterator[ServedModels]:
    models = [model.serve(max_model_len=1024) for model in loaded.values()]
    models.append(gist_loaded.serve())
    yield ServedModels(models)
    for model in models:
        model.engine.shutdown()


async def register(site: Site, model: str = "hermes", status: int = 201, **fields: Any) -> Any:
    body = {"model": model, "messages": [SYSTEM], "tools": TOOLS, "compression": "prefix"}
    return await site.register(status, **(body | fields))


async def ask(site: Site, **fields: Any) -> dict[str, Any]:
    body = {"model": "hermes", "messages": [USER], "max_tokens": 40, "temperature": 0}
    response = await site.post(CHAT, body | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    for call in answer["choices"][0]["message"].get("tool_calls", ()):
        del call["id"]  # new for each answer
    return answer


def in_full(**fields: Any) -> dict[str, Any]:
    """A request that sends all that the prompt holds."""
    return {"messages": [SYSTEM, USER], "tools": TOOLS, **fields}


@pytest.mark.parametrize("model", ["hermes", "llama"])
async def test_a_prefix_has_the_tokens_and_the_answer_of_sending_it_all(
    site: Site, loaded: dict[str, Loaded], model: str
) -> None:
    tokenizer = loaded[model].tokenizer
    ids = tokenizer.apply_chat_template([SYSTEM], tools=TOOLS, return_dict=False)
    whole = tokenizer.apply_chat_template(
        [SYSTEM, USER], tools=TOOLS, add_generation_prompt=True, return_dict=False
    )
    prompt = await register(site, model)
    assert prompt["tool_names"] == ["get_weather", "get_time"]
    assert site.store.get(prompt["id"]).prompt_token_ids == ids
    before = await ask(site, model=model, prompt_id=prompt["id"], logprobs=True, ignore_eos=True)
    usage = before["usage"]
    assert usage["prompt_tokens"] == len(whole)
    assert usage["prompt_tokens_details"]["cached_tokens"] >= len(ids)
    expected = loaded[model].greedy(whole, 40)
    got = before["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in got] == [tokenizer.decode([i]) for i in expected]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("hermes", {}),
        ("hermes", {"tool_choice": "none"}),
        ("hermes", {"tool_choice": "required", "parallel_tool_calls": False}),
        ("hermes", {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}),
        ("llama", {"tool_choice": "required"}),
    ],
)
async def test_tools_are_called_as_if_they_had_been_sent(
    site: Site, model: str, fields: dict[str, Any]
) -> None:
    more = {"model": model, "temperature": 1.2, "seed": 3, "max_tokens": 80, **fields}
    expected = (await ask(site, **in_full(**more)))["choices"]
    prompt = await register(site, model)
    answer = await ask(site, prompt_id=prompt["id"], **more)
    assert answer["choices"] == expected
    assert ("tool_calls" in expected[0]["message"]) == (fields.get("tool_choice", "none") != "none")


async def test_who_sends_it_all_is_served_from_the_prompt(site: Site) -> None:
    prompt = await register(site)
    expected = (await ask(site, prompt_id=prompt["id"], max_tokens=4))["choices"]
    for fields in (
        {"prompt_id": prompt["id"], "tools": TOOLS},
        {"prompt_id": prompt["id"], "tools": []},
        in_full(),
    ):
        answer = await ask(site, max_tokens=4, **fields)
        assert (answer["choices"], answer["prompt_id"]) == (expected, prompt["id"])
    assert "prompt_id" not in await ask(site, messages=[SYSTEM, USER], max_tokens=4)


async def test_results_of_calls_follow(site: Site) -> None:
    call = {"name": "get_time", "arguments": "{}"}
    turns = [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "1"},
    ]
    body = {"model": "llama", "messages": [SYSTEM, *turns], "tools": TOOLS, "max_tokens": 8}
    expected = (await ask(site, **body))["choices"]
    prompt = await register(site, "llama")
    answer = await ask(site, **(body | {"messages": turns, "tools": None}), prompt_id=prompt["id"])
    assert answer["choices"] == expected


async def test_responses_call_them_too(site: Site) -> None:
    prompt = await register(site, name="weather")
    body = {"tool_choice": "required", "input": "Oslo?", "temperature": 0}
    body |= {"max_output_tokens": 80, "parallel_tool_calls": False}

    async def output(**fields: Any) -> list[tuple[str, str]]:
        response = await site.post("/v1/responses", body | fields)
        assert response.status_code == 200, response.text
        found = [(item["name"], item["arguments"]) for item in response.json()["output"]]
        assert found
        return found

    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]  # type: ignore[dict-item]
    expected = await output(model="hermes", instructions=SYSTEM["content"], tools=flat)
    assert await output(model="hermes/weather") == expected
    assert await output(prompt={"id": prompt["id"]}, tools=flat) == expected
    wrong = await site.post(
        "/v1/responses", body | {"prompt": {"id": prompt["id"]}, "tools": flat[:1]}
    )
    assert wrong.status_code == 400


async def test_a_gist_of_tools_is_used_like_them(site: Site) -> None:
    prompt = await register(site, "gist", compression="gist")
    assert prompt["compression"]["slots"] == GIST_TOKENS + 1
    answer = await ask(
        site,
        model="gist",
        prompt_id=prompt["id"],
        max_tokens=80,
        temperature=1.2,
        seed=3,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert answer["usage"]["prompt_tokens_details"]["gist_tokens"] == GIST_TOKENS + 1


async def test_tools_are_part_of_what_a_prompt_is(sites: Sites) -> None:
    async with sites.open() as site:
        with_tools = await register(site)
        fewer, without = await register(site, tools=TOOLS[:1]), await register(site, tools=None)
        assert len({with_tools["id"], fewer["id"], without["id"]}) == 3
        assert without["tool_names"] == []
        assert (await register(site, status=200))["id"] == with_tools["id"]
        before = await ask(site, prompt_id=with_tools["id"], max_tokens=8)
        shorter = await ask(site, **in_full(tools=TOOLS[:1], max_tokens=8))
        assert shorter["prompt_id"] == fewer["id"]
    async with sites.open() as site:
        assert (await ask(site, prompt_id=with_tools["id"], max_tokens=8))["choices"] == before[
            "choices"
        ]
        assert (await register(site, status=200))["id"] == with_tools["id"]


async def test_variables_stand_behind_tools(site: Site) -> None:
    system = {"role": "system", "content": "You know {{city}}."}
    prompt = await register(site, messages=[system], variables=["city"])
    filled = {"role": "system", "content": "You know Rome."}
    expected = await ask(site, messages=[filled, USER], tools=TOOLS)
    answer = await ask(site, prompt_id=prompt["id"], prompt_variables={"city": "Rome"})
    assert answer["choices"] == expected["choices"]
    assert answer["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"messages": None, "text": "x"}, "tools", "need messages"),
        ({"model": GIST_MODEL}, "tools", "takes no tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", ""),
        ({"tools": TOOLS * 65}, "tools", ""),
        ({"tools": [5]}, "tools", ""),
    ],
)
async def test_what_cannot_be_registered(
    site: Site, fields: dict[str, Any], param: str, told: str
) -> None:
    body = {"model": "hermes", "messages": [SYSTEM], "tools": TOOLS, **fields}
    response = await site.post(PROMPTS, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert told in error["message"]
    assert len(site.store) == 0


async def test_other_tools_are_refused(site: Site) -> None:
    prompt = await register(site)
    for tools in (TOOLS[:1], TOOLS[::-1]):
        body = {"messages": [USER], "prompt_id": prompt["id"], "tools": tools}
        response = await site.post(CHAT, body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "tools"
        assert "registered with other tools" in error["message"]


async def test_what_the_template_refuses_is_told(site: Site, loaded: dict[str, Loaded]) -> None:
    """As Llama 3's own, which writes tools into the first user turn."""
    tokenizer = loaded["llama"].tokenizer
    tokenizer.chat_template = (
        "{% if tools and messages[-1].role == 'system' %}"
        "{{ raise_exception('Cannot put tools in the first user message') }}{% endif %}"
        + LLAMA_TEMPLATE
    )
    try:
        body = {"model": "llama", "messages": [SYSTEM], "tools": TOOLS}
        response = await site.post(PROMPTS, body)
        assert response.status_code == 400
        assert "first user message" in response.json()["error"]["message"]
    finally:
        tokenizer.chat_template = LLAMA_TEMPLATE
