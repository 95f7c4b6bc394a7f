"""Keys, queue, body size, shutdown, engine failures, disconnects: what bounds and ends requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from gistserve.server.api.application import begin_shutdown
from gistserve.server.api.authentication import owner_of_key
from gistserve.server.api.errors import ApiError
from gistserve.server.api.served_models import ServedModel, ServedModels
from gistserve.server.api.settings import ServerSettings

from .asgi import http_scope
from .conftest import GIST_MODEL, Loaded, Site, Sites, sse, until

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def engine_of(site: Site) -> Any:
    return site.app.state.context.models.get(GIST_MODEL).engine


# --- keys ---


async def test_keys_guard_everything_under_v1(sites: Sites) -> None:
    async with sites.open(api_keys=("secret-1", "secret-2")) as site:
        for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic secret-1"}):
            for path in ("/v1/models", "/v1/prompts", "/v1/nothing"):
                response = await site.client.get(path, headers=headers)
                assert response.status_code == 401, (path, headers)
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["code"] == "invalid_api_key"
        # Before the body is read: a malformed one does not change the answer.
        assert (await site.client.post(CHAT, content=b"{")).status_code == 401
        for key in ("secret-1", "secret-2"):
            assert (await site.client.get("/v1/models", headers=bearer(key))).status_code == 200
        for path in ("/health", "/docs", "/openapi.json"):
            assert (await site.client.get(path)).status_code == 200


async def test_prompts_belong_to_the_key_that_made_them(sites: Sites) -> None:
    async with sites.open(api_keys=("one", "two")) as site:
        body = {**HELLO, "name": "mine"}
        mine = (await site.post("/v1/prompts", body, headers=bearer("one"))).json()
        other = bearer("two")
        assert (await site.client.get("/v1/prompts", headers=other)).json()["data"] == []
        for method in ("GET", "PATCH", "DELETE"):
            response = await site.client.request(
                method,
                f"/v1/prompts/{mine['id']}",
                headers=other,
                json={} if method == "PATCH" else None,
            )
            assert response.status_code == 404
        for fields in ({"prompt_id": mine["id"]}, {"model": f"{GIST_MODEL}/mine"}):
            response = await site.post(CHAT, HELLO | fields, headers=other)
            assert response.status_code == 404
        models = (await site.client.get("/v1/models", headers=other)).json()["data"]
        assert f"{GIST_MODEL}/mine" not in {card["id"] for card in models}
        # The same name and content are free for the other key.
        theirs = await site.post("/v1/prompts", body, headers=other)
        assert theirs.status_code == 201
        assert theirs.json()["id"] != mine["id"]
        record = site.store.get(mine["id"])
        assert record.owner == owner_of_key("one")
        for path in site.store.directory.rglob("*.json"):
            assert b'"one"' not in path.read_bytes()
    async with sites.open(api_keys=("one", "two")) as site:
        listed = (await site.client.get("/v1/prompts", headers=bearer("one"))).json()["data"]
        assert [prompt["id"] for prompt in listed] == [mine["id"]]


# --- CORS, bodies, unknown paths ---


async def test_cors_is_off_unless_asked_for(sites: Sites) -> None:
    origin = {"Origin": "https://a.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    async with sites.open(api_keys=("k",)) as site:
        response = await site.client.get("/health", headers=origin)
        assert "access-control-allow-origin" not in response.headers
    async with sites.open(api_keys=("k",), cors_origins=("https://a.example",)) as site:
        response = await site.client.get("/health", headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert (await site.client.options(CHAT, headers=preflight)).status_code == 200
        refused = await site.client.get("/v1/models", headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"


async def test_large_bodies_are_refused_announced_or_not(sites: Sites) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with sites.open(max_body_bytes=1000) as site:
        headers = {"content-type": "application/json"}
        for content in (b" " * 1001, endless()):
            response = await site.client.post(CHAT, content=content, headers=headers)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "body_too_large"
        assert (await site.post(CHAT, HELLO | {"max_tokens": 1})).status_code == 200


async def test_unknown_paths_and_methods_answer_in_the_same_shape(site: Site) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", CHAT, 405)):
        response = await site.client.request(method, path)
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


# --- queue and shutdown ---


async def test_a_full_queue_answers_429(sites: Sites, gist_loaded: Loaded) -> None:
    model = gist_loaded.serve(max_num_seqs=2)
    models = ServedModels([model])
    try:
        async with sites.open(models, max_queue=1, retry_after_seconds=7) as site:
            body = HELLO | {"max_tokens": 300, "ignore_eos": True}
            responses = await asyncio.gather(*(site.post(CHAT, body) for _ in range(5)))
            statuses = sorted(response.status_code for response in responses)
            assert statuses == [200] * 3 + [429] * 2
            refused = next(r for r in responses if r.status_code == 429)
            assert refused.headers["retry-after"] == "7"
            assert refused.json()["error"]["code"] == "queue_full"
            assert (await site.post(CHAT, HELLO | {"max_tokens": 1})).status_code == 200
            # One request may have more choices than there are places.
            many = await site.post(CHAT, HELLO | {"max_tokens": 2, "n": 9})
            assert len(many.json()["choices"]) == 9
            assert site.app.state.context.desks[GIST_MODEL].admission.active == 0
    finally:
        model.engine.shutdown()


async def test_shutting_down_finishes_what_runs_and_refuses_the_rest(site: Site) -> None:
    body = HELLO | {"max_tokens": 200, "ignore_eos": True}
    running = asyncio.create_task(site.post(CHAT, body))
    await until(lambda: site.app.state.context.desks[GIST_MODEL].admission.active)
    assert (await site.client.get("/health")).json() == {"status": "ok"}
    begin_shutdown(site.app)
    for path, more in ((CHAT, HELLO), ("/v1/completions", {"prompt": "a"}), ("/v1/prompts", HELLO)):
        response = await site.post(path, more)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
    health = await site.client.get("/health")
    assert (health.status_code, health.json()) == (503, {"status": "shutting_down"})
    finished = await running
    assert finished.json()["usage"]["completion_tokens"] == 200


# --- engine failures ---


async def test_a_stopped_engine_shows_in_health_and_answers(
    sites: Sites, gist_loaded: Loaded
) -> None:
    model = gist_loaded.serve()
    async with sites.open(ServedModels([model])) as site:
        running = asyncio.create_task(
            site.post(CHAT, HELLO | {"max_tokens": 400, "ignore_eos": True})
        )
        streamed = asyncio.create_task(
            site.post(CHAT, HELLO | {"max_tokens": 400, "ignore_eos": True, "stream": True})
        )
        await until(lambda: model.engine.stats().num_running == 2)
        model.engine.shutdown()
        assert (await running).status_code == 503
        events = sse(await streamed)
        assert events[-1]["error"]["code"] == "shutting_down"
        health = await site.client.get("/health")
        assert health.status_code == 503
        assert health.json() == {"status": "engine_stopped", "models": [GIST_MODEL]}
        for path in (CHAT, "/v1/prompts"):
            response = await site.post(path, HELLO)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "engine_unavailable"


async def test_a_failing_step_fails_its_requests_alone(
    site: Site, engine_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine_of._core.runner
    working = runner.execute

    def fail(*args: Any) -> Any:
        monkeypatch.setattr(runner, "execute", working)
        raise RuntimeError("injected")

    monkeypatch.setattr(runner, "execute", fail)
    response = await site.post(CHAT, HELLO)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    monkeypatch.setattr(runner, "execute", fail)
    events = sse(await site.post(CHAT, HELLO | {"stream": True}))
    assert events[-1]["error"]["type"] == "server_error"
    assert (await site.post(CHAT, HELLO | {"max_tokens": 2})).status_code == 200
    assert site.app.state.context.desks[GIST_MODEL].admission.active == 0


async def test_a_prompt_that_the_cache_cannot_hold_is_refused_and_leaves_nothing(
    sites: Sites, gist_loaded: Loaded
) -> None:
    model = gist_loaded.serve(num_blocks=8)
    try:
        async with sites.open(ServedModels([model])) as site:
            response = await site.post("/v1/prompts", {"text": "x" * 200})
            assert response.status_code == 507
            assert response.json()["error"]["code"] == "kv_cache_full"
            response = await site.post("/v1/completions", {"prompt": "x" * 200})
            assert response.status_code == 400
            assert len(site.store) == 0
            assert model.engine.stats().num_free_blocks == 8
            await site.register(text="x" * 30)
    finally:
        model.engine.shutdown()


async def test_an_unwritable_store_refuses_and_leaves_nothing(
    site: Site, engine_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gistserve.compress.errors import StoreUnwritableError

    kept = await site.register(text="kept")
    before = engine_of.stats().num_free_blocks

    def fail(*args: Any, **more: Any) -> Any:
        raise StoreUnwritableError("the disk is full")

    for name in ("put", "edit", "delete"):
        monkeypatch.setattr(site.store, name, fail)
    path = f"/v1/prompts/{kept['id']}"
    responses = [
        await site.post("/v1/prompts", {"text": "new", "name": "n"}),
        await site.client.patch(path, json={"ttl": "5s"}),
        await site.client.delete(path),
    ]
    for response in responses:
        assert response.status_code == 507
        assert response.json()["error"]["code"] == "store_unwritable"
        assert "disk" not in response.text
    monkeypatch.undo()
    assert (await site.client.get(path)).json() == kept
    await until(lambda: engine_of.stats().num_free_blocks == before)
    await site.register(text="new", name="n")
    assert (await site.client.delete(path)).status_code == 200


# --- disconnects ---


async def disconnecting(
    app: FastAPI, body: dict[str, Any], gone: asyncio.Event, after_chunks: int = -1
) -> int:
    """Calls the application as a client that leaves at `gone`, or after so many chunks.

    Returns how many chunks it got.
    """
    sent = 0
    messages = [
        {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False},
    ]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent
        if message["type"] == "http.response.body" and message.get("body"):
            sent += 1
            if sent == after_chunks:
                gone.set()

    with anyio.fail_after(60):
        await app(http_scope("POST", CHAT), receive, send)
    return sent


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_request(
    site: Site, engine_of: Any, stream: bool
) -> None:
    before = engine_of.stats()
    body = HELLO | {"max_tokens": 450, "ignore_eos": True, "stream": stream, "n": 3}
    gone = asyncio.Event()
    if stream:
        sent = await disconnecting(site.app, body, gone, after_chunks=5)
    else:
        client = asyncio.create_task(disconnecting(site.app, body, gone))
        await until(lambda: engine_of.stats().num_running == 3)
        gone.set()
        sent = await client
    assert sent < 450
    await until(lambda: engine_of.stats().num_running == 0)
    after = engine_of.stats()
    assert after.finished.get("abort", 0) == before.finished.get("abort", 0) + 3
    assert after.num_free_blocks == before.num_free_blocks
    assert site.app.state.context.desks[GIST_MODEL].admission.active == 0


# --- values that an operator gives ---


@pytest.mark.parametrize(
    "fields",
    [
        {"api_keys": ("",)},
        {"max_queue": -1},
        {"max_body_bytes": 0},
        {"max_body_bytes": 10, "max_total_body_bytes": 9},
        {"retry_after_seconds": 0},
        {"sweep_seconds": 0},
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ServerSettings(**fields)


def named(name: str) -> ServedModel:
    return ServedModel(name, None, None, "f", 10)  # type: ignore[arg-type]


def test_models_are_found_by_the_longest_name() -> None:
    models = ServedModels([named("a"), named("a/b"), named("c")])
    assert [(m.name, p) for m, p in map(models.resolve, ("a", "a/b", "a/x", "a/b/x"))] == [
        ("a", None),
        ("a/b", None),
        ("a", "x"),
        ("a/b", "x"),
    ]
    assert models.resolve(None)[0].name == "a"
    for unknown in ("b", "ab", "", "c2/x"):
        with pytest.raises(ApiError):
            models.resolve(unknown)


def test_model_names_must_differ() -> None:
    for names in ((), ("a", "a"), ("",)):
        with pytest.raises(ValueError):
            ServedModels([named(name) for name in names])
