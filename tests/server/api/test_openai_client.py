"""The official clients, unmodified, against a live server on a loopback port."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import openai
import pydantic
import pytest
from gistserve.compress.store import GistStore
from gistserve.server.api.application import create_app
from gistserve.server.api.served_models import ServedModels
from gistserve.server.api.settings import ServerSettings

from .conftest import GIST_MODEL, GIST_TOKENS, MAX_MODEL_LEN
from .live_server import live as serve_live
from .test_tools import HERMES_TEMPLATE, TOOLS, load

KEY = "sk-test"
CALLER = "caller"
FULL = "full"


@dataclass
class Live:
    url: str
    models: ServedModels

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def live(served: ServedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A model that also makes embeddings, one that calls tools, and one whose queue is full."""
    gist, plain = served
    caller = load(CALLER, tmp_path_factory.mktemp("caller"), HERMES_TEMPLATE).serve()
    models = ServedModels([replace(gist, pooling="last"), caller, replace(plain, name=FULL)])
    with GistStore(tmp_path_factory.mktemp("store")) as store:
        app = create_app(models, store, ServerSettings(api_keys=(KEY,)))
        app.state.context.desks[FULL].admission.active = 10**6  # as if so many ran
        with serve_live(app, lifespan=True) as server:
            yield Live(server.url, models)
    caller.engine.shutdown()


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with live.client() as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    cards = {card.id: card for card in client.models.list()}
    assert cards[GIST_MODEL].model_extra["max_model_len"] == MAX_MODEL_LEN
    assert client.models.retrieve(GIST_MODEL).id == GIST_MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    request = {"model": GIST_MODEL, "messages": messages, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**request, logprobs=True, top_logprobs=2)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 20
    assert len(whole.choices[0].logprobs.content) == 20
    stream = client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len(chunks) == 21
    text = "".join(chunk.choices[0].delta.content for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_completions_whole_and_streamed(client: openai.OpenAI) -> None:
    request = {"model": GIST_MODEL, "prompt": ["One", "Two"], "temperature": 0, "max_tokens": 5}
    whole = client.completions.create(**request, echo=True, logprobs=1)
    assert whole.choices[0].text.startswith("One")
    assert whole.choices[1].logprobs.tokens[:3] == list("Two")
    texts = ["", ""]
    for chunk in client.completions.create(**request, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert [f"One{texts[0]}", f"Two{texts[1]}"] == [choice.text for choice in whole.choices]


def test_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    request = {"model": GIST_MODEL, "input": "Hello", "temperature": 0, "max_output_tokens": 12}
    whole = client.responses.create(**request, instructions="Be short.")
    assert whole.status == "incomplete" and whole.usage.output_tokens == 12
    with client.responses.stream(**request, instructions="Be short.") as stream:
        events = list(stream)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[0].type == "response.created"
    assert events[-1].response.output_text == whole.output_text
    raw = client.responses.create(**request, stream=True)
    assert [event.sequence_number for event in raw] == list(range(len(events)))
    with pytest.raises(openai.BadRequestError, match="not stored"):
        client.responses.create(**request, previous_response_id="resp_1")


def test_choices_seeds_and_stops(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    request = {"model": GIST_MODEL, "messages": messages, "max_tokens": 12, "seed": 5, "n": 3}
    texts = [
        [choice.message.content for choice in client.chat.completions.create(**request).choices]
        for _ in range(2)
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
    first = texts[0][0]
    (stopped,) = client.chat.completions.create(**{**request, "n": 1}, stop=first[4:6]).choices
    assert stopped.message.content == first[: first.index(first[4:6])]
    assert stopped.finish_reason == "stop"


def test_embeddings(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model=GIST_MODEL, input=["One", "Two"])
    floats = client.embeddings.create(
        model=GIST_MODEL, input=["One", "Two"], encoding_format="float"
    )
    assert [entry.embedding for entry in whole.data] == [
        pytest.approx(entry.embedding, abs=1e-7) for entry in floats.data
    ]
    assert whole.usage.prompt_tokens == whole.usage.total_tokens == 6
    (cut,) = client.embeddings.create(model=GIST_MODEL, input=[7, 8, 9], dimensions=3).data
    assert sum(x * x for x in cut.embedding) == pytest.approx(1)
    with pytest.raises(openai.BadRequestError, match="--embeddings"):
        client.embeddings.create(model=CALLER, input="One")


def test_tools_whole_and_streamed(client: openai.OpenAI) -> None:
    request = {
        "model": CALLER,
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": TOOLS[:1],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": 1,
    }
    (call,) = client.chat.completions.create(**request).choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    with client.chat.completions.stream(**request) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.arguments == call.function.arguments


def test_structured_output(client: openai.OpenAI) -> None:
    class Ticket(pydantic.BaseModel):
        team: Literal["billing", "shipping"]
        urgent: bool

    messages = [{"role": "user", "content": "Hello"}]
    completion = client.chat.completions.parse(
        model=GIST_MODEL, messages=messages, response_format=Ticket, max_tokens=80
    )
    assert isinstance(completion.choices[0].message.parsed, Ticket)
    response = client.responses.parse(
        model=GIST_MODEL, input="Hello", text_format=Ticket, max_output_tokens=80
    )
    assert isinstance(response.output_parsed, Ticket)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=GIST_MODEL,
            messages=messages,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    assert refused.value.param == "tools"


def test_a_registered_prompt_in_every_way(client: openai.OpenAI) -> None:
    system = {"role": "system", "content": "You route messages to teams."}
    prompt = client.post(
        "/prompts",
        body={"messages": [system], "name": "router", "compression": "auto"},
        cast_to=object,
    )
    assert prompt["compression"]["gist_tokens"] == GIST_TOKENS
    request = {
        "messages": [{"role": "user", "content": "Where is my parcel?"}],
        "temperature": 0,
        "max_tokens": 10,
    }
    by_name = client.chat.completions.create(model=f"{GIST_MODEL}/router", **request)
    by_id = client.chat.completions.create(
        model=GIST_MODEL, **request, extra_body={"prompt_id": prompt["id"]}
    )
    by_reference = client.chat.completions.create(
        model=GIST_MODEL, **request, extra_body={"prompt": {"id": prompt["id"]}}
    )
    texts = {c.choices[0].message.content for c in (by_name, by_id, by_reference)}
    assert len(texts) == 1
    assert by_name.model_extra["prompt_id"] == prompt["id"]
    details = by_name.usage.prompt_tokens_details
    assert details.cached_tokens >= prompt["compression"]["prompt_tokens"]
    assert details.model_extra["gist_tokens"] == prompt["compression"]["slots"]
    assert f"{GIST_MODEL}/router" in {card.id for card in client.models.list()}
    client.delete(f"/prompts/{prompt['id']}", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=f"{GIST_MODEL}/router", **request)


def test_errors_are_the_clients_own(live: Live, client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "x" * 1000}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens"):
        client.chat.completions.create(model=GIST_MODEL, messages=messages)
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=GIST_MODEL, messages=messages, temperature=-3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model=GIST_MODEL, messages=[])
    assert empty.value.param == "messages"
    with pytest.raises(openai.RateLimitError) as full:
        client.chat.completions.create(model=FULL, messages=messages)
    assert full.value.response.headers["retry-after"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=messages)
    with live.client("wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_stream_that_is_closed_early_frees_the_engine(live: Live, client: openai.OpenAI) -> None:
    engine = live.models.get(GIST_MODEL).engine
    aborted = engine.stats().finished.get("abort", 0)
    stream = client.chat.completions.create(
        model=GIST_MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=490,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _, _chunk in zip(range(3), stream, strict=False):
        pass
    stream.close()
    pause = threading.Event()
    for _ in range(6000):
        if engine.stats().finished.get("abort", 0) > aborted and not engine.stats().num_running:
            break
        pause.wait(0.01)
    assert engine.stats().finished.get("abort", 0) == aborted + 1
    assert engine.stats().num_running == 0


def test_every_end_point_by_the_npm_package(live: Live, request: pytest.FixtureRequest) -> None:
    """The package is kept in pytest's cache; where it cannot be installed the test is skipped."""
    folder = request.config.cache.mkdir("openai_npm")
    if shutil.which("node") is None or not _installed(folder):
        pytest.skip("needs node, and the npm package openai")
    script = Path(shutil.copy(Path(__file__).with_name("openai_client.js"), folder))
    command = ["node", script.name, f"{live.url}/v1", KEY, GIST_MODEL, CALLER, FULL]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.split()) == 9


def _installed(folder: Path) -> bool:
    if not (folder / "node_modules" / "openai").is_dir() and shutil.which("npm"):
        install = ["npm", "install", "--prefix", str(folder), "--fetch-retries=0", "openai@>=6"]
        try:
            subprocess.run(install, cwd=folder, capture_output=True, timeout=90)
        except subprocess.TimeoutExpired:
            return False
    return (folder / "node_modules" / "openai").is_dir()
