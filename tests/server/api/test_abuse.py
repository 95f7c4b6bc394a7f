"""Hostile requests are refused by name, and never with a 500."""

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from gistserve.server.api.application import _ROUTES
from gistserve.server.api.json_route import JsonRoute

from .asgi import http_scope
from .conftest import GIST_MODEL, Site, Sites

pytestmark = pytest.mark.anyio

CHAT, TEXT, RESPONSES, PROMPTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/prompts",
)
USER = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 1},
    TEXT: {"prompt": "Hello", "max_tokens": 1},
    RESPONSES: {"input": "Hello", "max_output_tokens": 1},
    PROMPTS: {"messages": USER},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [5]},
    "/v1/embeddings": {"input": "Hello"},
}


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def schema(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}}
    return inner


async def send(site: Site, path: str, body: str | bytes) -> Any:
    headers = {"content-type": "application/json"}
    return await site.client.post(path, content=body, headers=headers)


async def alive(site: Site) -> None:
    assert (await site.post(CHAT, BODIES[CHAT])).status_code == 200


async def test_every_body_is_read_strictly() -> None:
    routes = [route for module in _ROUTES for route in module.router.routes]
    taking = [route for route in routes if {"POST", "PATCH", "PUT"} & route.methods]
    assert len(taking) >= 8
    assert all(isinstance(route, JsonRoute) for route in taking)


async def test_json_that_nests_too_deeply(site: Site) -> None:
    for depth in (300, 5_000, 200_000):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            await refuse_extra(site, opening * depth + "1" + closing * depth)


async def test_what_json_does_not_have(site: Site) -> None:
    surrogate = '"\\ud800"'
    for value in (
        "NaN",
        "-Infinity",
        "1" * 5000,
        "-" + "1" * 400 + ".5",
        surrogate,
        "1e999",
        "1e",
        "0x10",
        "tru",
        "'a'",
        "1,}",
    ):
        await refuse_extra(site, value)


async def refuse_extra(site: Site, value: str) -> None:
    """A field that nobody reads makes every body invalid."""
    for path, fields in BODIES.items():
        response = await send(site, path, json.dumps(fields)[:-1] + f', "extra": {value}}}')
        assert response.status_code == 400, (path, value[:20], response.text)
        assert response.json()["error"]["code"] == "invalid_json"


HARSH = {
    "deep list": nested(150, "list"),
    "deep object": nested(150, "dict"),
    "beyond words": 10**400,
    "huge": 1e308,
    "tiny": 1e-308,
    "zero byte": "\0",
    "long": "x" * 100_000,
    "deep schema": schema(90),
    "emptiness": {},
}
FIELDS = {
    CHAT: "metadata user extra stop seed logit_bias stream_options n tools tool_choice prompt "
    "response_format prompt_id prompt_variables model messages max_tokens temperature top_k "
    "repetition_penalty",
    TEXT: "prompt suffix logprobs echo best_of response_format prompt_id",
    RESPONSES: "input instructions metadata text tools prompt user",
    PROMPTS: "name text messages metadata ttl variables gist_tokens model",
    "/tokenize": "prompt messages model",
    "/detokenize": "tokens model",
}


@pytest.mark.parametrize("path", FIELDS)
async def test_harsh_values_in_every_field(site: Site, path: str) -> None:
    for field in FIELDS[path].split():
        for name, value in HARSH.items():
            for form in forms(field, value):
                response = await site.post(path, BODIES[path] | {field: form})
                assert response.status_code < 500, (field, name, response.text)
                if path == PROMPTS and response.status_code in (200, 201):
                    prompt_id = response.json()["id"]
                    assert (await site.client.delete(f"{PROMPTS}/{prompt_id}")).status_code == 200
    await alive(site)


def forms(field: str, value: Any) -> list[Any]:
    """The value in places where the field, or something in it, may take any JSON."""
    found = [value, [value], {"a": value}, [{"role": "user", "content": "a", "more": value}]]
    if field == "tools":
        found.append([{"type": "function", "function": {"name": "f", "parameters": value}}])
    if field in ("response_format", "text"):
        wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": value}}
        found += [wanted, {"format": {**wanted, "name": "s", "schema": value}}]
    return found


# --- paths and keys ---

TRICKS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..\\..\\windows",
    "/etc/passwd",
    "%00",
    "pmpt_%0a",
    "~root",
    ".",
    "..",
    "%25%32%65",
    "a" * 4000,
]


async def test_ids_and_names_that_look_like_paths_lead_nowhere(site: Site) -> None:
    before = set(site.store.directory.rglob("*"))
    for trick in TRICKS:
        await lead_nowhere(site, trick)
    root = site.store.directory.resolve()
    for path in set(site.store.directory.rglob("*")) - before:
        assert path.resolve().is_relative_to(root)
        assert re.fullmatch(r"[A-Za-z0-9_]+(\.[a-z]+)*", path.name), path


async def lead_nowhere(site: Site, trick: str) -> None:
    for path in (f"{PROMPTS}/{trick}", f"/v1/models/{trick}", f"/v1/models/{GIST_MODEL}/{trick}"):
        for method in ("GET", "DELETE"):
            response = await site.client.request(method, path)
            assert response.status_code in (404, 405, 307) or path.endswith("."), (path, response)
    for fields in ({"prompt_id": trick}, {"model": f"{GIST_MODEL}/{trick}"}, {"model": trick}):
        assert (await site.post(CHAT, BODIES[CHAT] | fields)).status_code == 404
    assert (await site.post(PROMPTS, BODIES[PROMPTS] | {"name": trick})).status_code in (
        400,
        200,
        201,
    )


PATHS = [
    "/v1/models",
    "//v1/models",
    "/v1//models",
    "/./v1/models",
    "/docs/../v1/models",
    "/%76%31/models",
    "/v1%2fmodels",
    "/V1/models",
    "/health/../server_info",
    "/v1/models/",
    "/server_info/",
    "/tokenize/",
    "/v1/models?key=secret",
    "/v1/models#secret",
]


async def test_no_path_goes_round_the_key(sites: Sites) -> None:
    async with sites.open(api_keys=("secret",)) as site:
        for path in PATHS:  # which httpx would put in order
            status, body = await raw_get(site.app, path, [])
            assert status in (401, 404), (path, status, body)
            assert GIST_MODEL.encode() not in body


NEARLY_RIGHT = [
    b"secret",
    b"Bearer",
    b"Bearer ",
    b"Bearer secre",
    b"Bearer secrets",
    b"Bearer secret\0",
    b"Bearer SECRET",
    b"Bearer secret secret",
    b"Bearer \xff\xfe",
    b"Basic c2VjcmV0",
    b"Bearer " + b"x" * 60_000,
]


async def test_keys_that_are_nearly_right(sites: Sites) -> None:
    async with sites.open(api_keys=("secret",)) as site:
        for value in NEARLY_RIGHT:
            status, _ = await raw_get(site.app, "/v1/models", [(b"authorization", value)])
            assert status == 401, value
        right = [(b"authorization", b"bearer  secret ")]
        assert (await raw_get(site.app, "/v1/models", right))[0] == 200


async def raw_get(app: FastAPI, path: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Status and body of a path as it is, decoded as uvicorn does."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(http_scope("GET", path, headers), receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
