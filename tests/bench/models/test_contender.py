"""Registering a prompt for every row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gistserve.bench.load.client import open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.target import Target
from gistserve.bench.models.contender import Contender, contenders

from ..fake_server import FakeServer, StartServer

SLOTS = {"prefix": 40, "gist": 5}
# One after another, as they are registered.
ROWS = ["teacher", "teacher + gist", "student"]


@pytest.fixture
def server(start_server: StartServer) -> FakeServer:
    """Keeps every prompt on the device."""
    fake = start_server(lambda path, body: (500, []))
    for name, way in (("teacher", "prefix"), ("teacher", "gist"), ("student", "prefix")):
        path = f"/v1/prompts/{name}-{way}"
        fake.documents[f"GET {path}"] = {"storage": {"tier": "device"}}
        fake.documents[f"DELETE {path}"] = {}

    def register(body: dict[str, Any]) -> dict[str, Any]:
        way = body["compression"]
        slots = SLOTS[way]
        kept = {"method": way, "prompt_tokens": 40, "slots": slots, "cache_bytes": 256 * slots}
        return {"id": f"{body['model']}-{way}", "compression": kept}

    fake.documents["POST /v1/prompts"] = register
    return fake


def enter(
    server: FakeServer, prompt: str | None, endpoint: Endpoint = Endpoint.completions
) -> list[Contender]:
    async def go() -> list[Contender]:
        target = Target(server.url, "teacher", endpoint)
        async with (
            open_session(target) as session,
            contenders(["teacher", "student"], prompt, {"teacher"}, target, session) as found,
        ):
            return found

    return asyncio.run(go())


def asked(server: FakeServer, method: str) -> list[str]:
    return [path.rpartition("/")[2] for verb, path, _ in server.requests if verb == method]


def test_without_a_prompt_every_model_is_a_row(server: FakeServer) -> None:
    assert enter(server, None) == [Contender("teacher", "teacher"), Contender("student", "student")]
    assert server.requests == []


def test_a_prompt_is_kept_in_full_and_as_gist_where_it_can(server: FakeServer) -> None:
    found = enter(server, "policy")
    assert [row.name for row in found] == ROWS
    assert [row.model for row in found] == ["teacher", "teacher", "student"]
    kept = [row.prompt for row in found if row.prompt]
    assert [prompt.id for prompt in kept] == ["teacher-prefix", "teacher-gist", "student-prefix"]
    assert [prompt.gist_slots for prompt in kept] == [0, 5, 0]
    assert [prompt.cache_bytes for prompt in kept] == [10240, 1280, 10240]
    bodies = [body for verb, _, body in server.requests if verb == "POST"]
    # Continued by another text, it ends where a token ends.
    assert {body["text"] for body in bodies} == {"policy\n"}
    assert sorted(asked(server, "DELETE")) == sorted(prompt.id for prompt in kept)


def test_in_chats_it_is_the_system_message(server: FakeServer) -> None:
    enter(server, "policy", Endpoint.chat)
    bodies = [body for verb, _, body in server.requests if verb == "POST"]
    assert len(bodies) == 3
    for body in bodies:
        assert body["messages"] == [{"role": "system", "content": "policy"}]
        assert "text" not in body


@pytest.mark.parametrize(
    ("document", "where"),
    [({"storage": {"tier": "disk"}}, "tier is 'disk'"), (None, "tier is None")],
)
def test_a_prompt_that_leaves_the_device_for_the_next_one_is_refused(
    server: FakeServer, document: Any, where: str
) -> None:
    server.documents["GET /v1/prompts/teacher-prefix"] = document
    with pytest.raises(LoadError, match=f"of teacher does not stay .*{where}.*--prompt-memory"):
        enter(server, "policy")
    # Asked only once all are registered; and those are not left behind.
    verbs = [verb for verb, _, _ in server.requests]
    assert verbs[:4] == ["POST", "POST", "POST", "GET"]
    assert sorted(asked(server, "DELETE")) == ["student-prefix", "teacher-gist", "teacher-prefix"]


def test_a_server_that_keeps_no_prompts_is_told_so(server: FakeServer) -> None:
    del server.documents["POST /v1/prompts"]
    with pytest.raises(LoadError, match=r"did not register a prompt: HTTP 404.*takes a gistserve"):
        enter(server, "policy")
