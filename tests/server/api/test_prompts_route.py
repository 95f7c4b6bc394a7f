"""/v1/prompts: create, get, list in pages, patch, delete, expiry."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gistserve.server.api.served_models import ServedModels

from .conftest import GIST_MODEL, GIST_TOKENS, PLAIN_MODEL, Loaded, Site, Sites, until

pytestmark = pytest.mark.anyio

PROMPTS = "/v1/prompts"
SYSTEM = {"role": "system", "content": "You route messages. Refunds go to Billing."}


def free_blocks(site: Site) -> int:
    """Blocks of the first model's engine that no pin and no request holds."""
    return site.app.state.context.models.get(GIST_MODEL).engine.stats().num_free_blocks


async def assert_freed(site: Site, expected: int) -> None:
    """The engine's thread frees blocks soon after the answer."""
    await until(lambda: free_blocks(site) == expected)


async def test_the_resource_is_as_documented(site: Site, gist_loaded: Loaded) -> None:
    site.clock.now = 1_700_000_100.5
    prompt = await site.register(
        name="routing", messages=[SYSTEM], ttl="3600s", metadata={"team": "a"}, compression="gist"
    )
    ids = gist_loaded.tokenizer.apply_chat_template([SYSTEM], return_dict=False)
    slots = GIST_TOKENS + 1
    bytes_a_slot = 2 * 2 * 2 * 8 * 4  # layers, key and value, heads, width, fp32
    assert prompt.pop("id").startswith("pmpt_")
    assert prompt == {
        "object": "prompt",
        "name": "routing",
        "model": GIST_MODEL,
        "created_at": 1_700_000_100,
        "expires_at": 1_700_003_700,
        "ttl": "3600s",
        "status": "ready",
        "compression": {
            "method": "gist",
            "prompt_tokens": len(ids),
            "gist_tokens": GIST_TOKENS,
            "slots": slots,
            "ratio": round(len(ids) / slots, 1),
            "cache_bytes": slots * bytes_a_slot,
            "uncompressed_bytes": len(ids) * bytes_a_slot,
        },
        "storage": {
            "tier": "device",
            "device_bytes": 16 * bytes_a_slot,  # a whole block
            "host_bytes": 0,
            "disk_bytes": slots * bytes_a_slot,
        },
        "tool_names": [],
        "variables": [],
        "usage": {"requests": 0, "tokens_saved": 0, "last_used_at": None},
        "metadata": {"team": "a"},
    }


async def test_a_prefix_keeps_every_slot(site: Site) -> None:
    made = (await site.register(compression="prefix", gist_tokens=99))["compression"]
    assert made["method"] == "prefix"
    assert made["slots"] == made["prompt_tokens"]
    assert made["gist_tokens"] == 0
    assert made["ratio"] == 1.0
    assert made["cache_bytes"] == made["uncompressed_bytes"]


async def test_auto_is_gist_where_there_is_an_adapter(site: Site) -> None:
    assert (await site.register())["compression"]["method"] == "gist"
    assert (await site.register(model=PLAIN_MODEL))["compression"]["method"] == "prefix"
    response = await site.post(
        PROMPTS, {"messages": [SYSTEM], "model": PLAIN_MODEL, "compression": "gist"}
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "compression"
    assert "no gist adapter" in error["message"]


async def test_the_same_again_is_the_same_resource(site: Site) -> None:
    first = await site.register(messages=[SYSTEM], name="a")
    again = await site.register(200, messages=[SYSTEM], name="a", metadata={"ignored": "yes"})
    assert again == first
    parts = {"role": "system", "content": [{"type": "text", "text": SYSTEM["content"]}]}
    assert (await site.register(200, messages=[parts], gist_tokens=GIST_TOKENS)) == first
    assert (await site.register(messages=[SYSTEM], compression="prefix"))["id"] != first["id"]
    assert (await site.register(messages=[SYSTEM], model=PLAIN_MODEL))["id"] != first["id"]
    assert (await site.register(text=SYSTEM["content"]))["id"] != first["id"]


async def test_the_same_again_may_name_and_prolong(site: Site) -> None:
    first = await site.register(messages=[SYSTEM], ttl="100s")
    again = await site.register(200, messages=[SYSTEM], ttl="50s", name="late")
    assert again == {**first, "name": "late"}
    again = await site.register(200, messages=[SYSTEM], ttl="200s")
    assert again["expires_at"] == first["expires_at"] + 100
    assert (await site.register(200, messages=[SYSTEM]))["expires_at"] is None
    await site.chat("x", model=f"{GIST_MODEL}/late")


async def test_another_content_under_a_taken_name_is_a_conflict(site: Site) -> None:
    await site.register(messages=[SYSTEM], name="a")
    other = await site.register(text="else")
    for body in (
        {"text": "other", "name": "a"},
        {"messages": [SYSTEM], "compression": "prefix", "name": "a"},
        {"text": "else", "name": "a"},  # would be renamed
    ):
        response = await site.post(PROMPTS, body)
        assert response.status_code == 409, response.text
        assert response.json()["error"]["param"] == "name"
    assert (await site.client.get(f"{PROMPTS}/{other['id']}")).json()["name"] is None
    await site.register(text="other", name="a", model=PLAIN_MODEL)  # names are a model's own


async def test_simultaneous_equal_registrations_make_one_prompt(site: Site) -> None:
    before = free_blocks(site)
    body = {"messages": [SYSTEM], "name": "a"}
    responses = await asyncio.gather(*(site.post(PROMPTS, body) for _ in range(8)))
    assert sorted(r.status_code for r in responses) == [200] * 7 + [201]
    assert len({r.json()["id"] for r in responses}) == 1
    assert len((await site.client.get(PROMPTS)).json()["data"]) == 1
    await site.client.delete(f"{PROMPTS}/{responses[0].json()['id']}")
    await assert_freed(site, before)


async def test_simultaneous_takers_of_one_name_leave_one_winner(site: Site) -> None:
    bodies = [{"text": f"content {i}", "name": "a"} for i in range(6)]
    responses = await asyncio.gather(*(site.post(PROMPTS, body) for body in bodies))
    assert sorted(r.status_code for r in responses) == [201] + [409] * 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"text": "both"}, "messages"),
        ({"messages": None, "text": ""}, "text"),
        ({"messages": None, "text": "\ud83d"}, None),
        ({"messages": [{"role": "system"}, 5]}, "messages.1"),
        ({"name": "has space"}, "name"),
        ({"name": "../../etc"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"compression": "zip"}, "compression"),
        ({"gist_tokens": GIST_TOKENS + 1}, "gist_tokens"),
        ({"gist_tokens": 0}, "gist_tokens"),
        ({"ttl": 3600}, "ttl"),
        ({"ttl": "1h"}, "ttl"),
        ({"ttl": "0s"}, "ttl"),
        ({"ttl": "-5s"}, "ttl"),
        ({"ttl": "999999999999s"}, "ttl"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": "\ud800"}}, None),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"auto_match": "yes"}, "auto_match"),
    ],
)
async def test_bad_registrations(site: Site, fields: dict[str, Any], param: str | None) -> None:
    raw = json.dumps({"messages": [SYSTEM], **fields})
    headers = {"content-type": "application/json"}
    response = await site.client.post(PROMPTS, content=raw, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert (await site.client.get(PROMPTS)).json()["data"] == []


async def test_registrations_that_do_not_fit(site: Site) -> None:
    response = await site.post(PROMPTS, {"text": "x" * 600})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("This model's maximum context length is")
    # Over 507 tokens the gist's own positions do not fit any more, the prefix does.
    assert (await site.post(PROMPTS, {"text": "x" * 509})).status_code == 400
    await site.register(text="x" * 509, compression="prefix")


async def test_unknown_models_and_prompts(site: Site) -> None:
    for model in ("nobody", f"{GIST_MODEL}/x"):
        assert (await site.post(PROMPTS, {"text": "a", "model": model})).status_code == 404
    for path in ("pmpt_00", "..%2F..%2Fetc%2Fpasswd", "%00", "x" * 5000):
        for method in ("GET", "PATCH", "DELETE"):
            response = await site.client.request(
                method, f"{PROMPTS}/{path}", json={} if method == "PATCH" else None
            )
            assert response.status_code == 404, (method, path)
            assert response.json()["error"]["type"] == "not_found_error"


async def test_listing_in_pages(site: Site) -> None:
    assert (await site.client.get(PROMPTS)).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    made = []
    for i in range(5):
        site.clock.now += 1
        made.append((await site.register(text=f"text {i}"))["id"])
    page = (await site.client.get(PROMPTS, params={"limit": 2})).json()
    assert [p["id"] for p in page["data"]] == made[:2:-1]
    assert page["has_more"] is True
    assert page["first_id"] == made[4]
    seen = [p["id"] for p in page["data"]]
    while page["has_more"]:
        params = {"limit": 2, "after": page["last_id"]}
        page = (await site.client.get(PROMPTS, params=params)).json()
        seen += [p["id"] for p in page["data"]]
    assert seen == made[::-1]
    ascending = (await site.client.get(PROMPTS, params={"order": "asc"})).json()["data"]
    assert [p["id"] for p in ascending] == made
    for bad in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"after": "no"}, {"order": "up"}):
        response = await site.client.get(PROMPTS, params=bad)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == next(iter(bad))


async def test_patch_changes_what_it_names(site: Site) -> None:
    prompt = await site.register(ttl="100s", metadata={"a": "1"})
    path = f"{PROMPTS}/{prompt['id']}"

    async def patch(**body: Any) -> dict[str, Any]:
        response = await site.client.patch(path, json=body)
        assert response.status_code == 200, response.text
        assert (await site.client.get(path)).json() == response.json()
        return response.json()

    assert await patch() == prompt
    assert await patch(unknown=1, metadata=None) == prompt
    site.clock.now += 10
    assert (await patch(ttl="100s"))["expires_at"] == prompt["expires_at"] + 10
    assert (await patch(metadata={"b": "2"}))["metadata"] == {"b": "2"}
    assert (await patch(ttl=None))["expires_at"] is None
    moment = int(site.clock.now) + 7
    assert (await patch(expires_at=moment))["expires_at"] == moment
    assert (await patch(expires_at=None))["expires_at"] is None
    # Clients that send every field give null for what they do not mean.
    assert (await patch(ttl="60s", expires_at=None))["ttl"] == "60s"
    fixed = await patch(ttl=None, expires_at=moment)
    assert (fixed["ttl"], fixed["expires_at"]) == (None, moment)
    never = await patch(ttl=None, expires_at=None)
    assert (never["ttl"], never["expires_at"]) == (None, None)
    for bad in (
        {"ttl": "x"},
        {"expires_at": "tomorrow"},
        {"expires_at": 5},
        {"metadata": 1},
        {"ttl": "1s", "expires_at": moment},
    ):
        response = await site.client.patch(path, json=bad)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == next(iter(bad))


async def test_delete_frees_everything(site: Site) -> None:
    before = free_blocks(site)
    prompt = await site.register(name="gone", compression="prefix")
    assert free_blocks(site) < before
    path = f"{PROMPTS}/{prompt['id']}"
    response = await site.client.delete(path)
    assert response.json() == {"id": prompt["id"], "object": "prompt.deleted", "deleted": True}
    assert (await site.client.get(path)).status_code == 404
    assert (await site.client.delete(path)).status_code == 404
    assert len(site.store) == 0
    await assert_freed(site, before)
    response = await site.post(
        "/v1/chat/completions",
        {"model": f"{GIST_MODEL}/gone", "messages": [{"role": "user", "content": "x"}]},
    )
    assert response.status_code == 404
    again = await site.register(name="gone", compression="prefix")
    assert again["id"] != prompt["id"]


async def test_running_requests_outlive_their_prompt(site: Site) -> None:
    before = free_blocks(site)
    prompt = await site.register(compression="prefix")
    quiet = await site.chat("Hi", prompt_id=prompt["id"], max_tokens=150, ignore_eos=True)
    running = [
        asyncio.create_task(
            site.chat("Hi", prompt_id=prompt["id"], max_tokens=150, ignore_eos=True)
        )
        for _ in range(4)
    ]
    engine = site.app.state.context.models.get(GIST_MODEL).engine
    await until(lambda: engine.stats().num_running == 4)
    await site.client.delete(f"{PROMPTS}/{prompt['id']}")
    for body in await asyncio.gather(*running):
        assert body["choices"] == quiet["choices"]
    await assert_freed(site, before)


async def test_expired_prompts_are_gone(site: Site) -> None:
    before = free_blocks(site)
    prompt = await site.register(name="short", ttl="60s", compression="prefix")
    path = f"{PROMPTS}/{prompt['id']}"
    site.clock.now += 59
    assert (await site.client.get(path)).status_code == 200
    site.clock.now += 1
    assert (await site.client.get(path)).status_code == 404
    assert (await site.client.patch(path, json={"ttl": None})).status_code == 404
    assert (await site.client.get(PROMPTS)).json()["data"] == []
    assert len((await site.client.get("/v1/models")).json()["data"]) == 2
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for fields in ({"prompt_id": prompt["id"]}, {"model": f"{GIST_MODEL}/short"}):
        assert (await site.post("/v1/chat/completions", chat | fields)).status_code == 404
    await until(lambda: len(site.store) == 0)
    await assert_freed(site, before)


async def test_an_expired_name_and_content_can_be_taken_at_once(sites: Sites) -> None:
    async with sites.open() as site:
        site.app.state.context.prompts.sweep = lambda: asyncio.sleep(0)  # no sweep comes first
        first = await site.register(name="a", ttl="60s")
        site.clock.now += 61
        second = await site.register(name="a")
        assert second["id"] != first["id"]
        del site.app.state.context.prompts.sweep
        await site.app.state.context.prompts.sweep()
        assert (await site.register(200, name="a"))["id"] == second["id"]
        await site.chat("x", model=f"{GIST_MODEL}/a")


def lasting(prompt: dict[str, Any]) -> dict[str, Any]:
    """What of a prompt neither use nor a restart changes."""
    return {key: value for key, value in prompt.items() if key not in ("usage", "storage")}


async def test_prompts_survive_a_restart(sites: Sites) -> None:
    chat = {"max_tokens": 10, "ignore_eos": True}
    async with sites.open() as site:
        made = [
            await site.register(name="gist", compression="gist", ttl="100s", auto_match=True),
            await site.register(name="prefix", compression="prefix", metadata={"x": "y"}),
            await site.register(text="some text"),
        ]
        kept = made[1]["id"]
        answers = [(await site.chat("Hi", prompt_id=p["id"], **chat))["choices"] for p in made[:2]]
    async with sites.open() as site:
        listed = (await site.client.get(PROMPTS, params={"order": "asc"})).json()["data"]
        by_id = {p["id"]: p for p in listed}
        for prompt in made:
            usage = by_id[prompt["id"]]["usage"]
            assert lasting(by_id[prompt["id"]]) == lasting(prompt)
            assert by_id[prompt["id"]]["storage"]["tier"] == "disk"
            assert usage["requests"] == (1 if prompt["name"] else 0)
        for prompt, before in zip(made, answers, strict=False):
            body = await site.chat("Hi", prompt_id=prompt["id"], **chat)
            assert body["choices"] == before
        site.clock.now += 200
    async with sites.open() as site:
        listed = (await site.client.get(PROMPTS)).json()["data"]
        assert made[0]["id"] not in {p["id"] for p in listed}
        assert kept in {p["id"] for p in listed}


async def test_caches_of_other_weights_are_never_used(
    sites: Sites, gist_loaded: Loaded, plain_loaded: Loaded
) -> None:
    async with sites.open() as site:
        prompt = await site.register(name="a", compression="prefix", metadata={"m": "1"})
        other = await site.register(text="on the other model", model=PLAIN_MODEL)
    # The same name, other weights; and the other model is not served at all.
    impostor = plain_loaded.serve()
    object.__setattr__(impostor, "name", GIST_MODEL)
    models = ServedModels([impostor])
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    try:
        async with sites.open(models) as site:
            shown = (await site.client.get(f"{PROMPTS}/{prompt['id']}")).json()
            assert shown["status"] == "failed"
            assert "another model" in shown["error"]
            assert shown["compression"] == prompt["compression"]
            missing = (await site.client.get(f"{PROMPTS}/{other['id']}")).json()
            assert missing["status"] == "failed"
            assert "not served" in missing["error"]
            for fields in ({"prompt_id": prompt["id"]}, {"model": f"{GIST_MODEL}/a"}):
                response = await site.post("/v1/chat/completions", chat | fields)
                assert response.status_code == 400
                assert response.json()["error"]["code"] == "prompt_failed"
            # Neither by its messages, nor as a model.
            body = {"role": "system", "content": "Answer in a few words."}
            request = chat | {"messages": [body, *chat["messages"]]}
            assert "prompt_id" not in (await site.post("/v1/chat/completions", request)).json()
            assert len((await site.client.get("/v1/models")).json()["data"]) == 1
            # Registered again it is made anew, under its old id.
            healed = await site.register(name="a", compression="prefix", metadata={"m": "2"})
            assert healed["id"] == prompt["id"]
            assert healed["status"] == "ready"
            assert healed["metadata"] == {"m": "2"}
            response = await site.post("/v1/chat/completions", chat | {"prompt_id": prompt["id"]})
            assert response.status_code == 200
            assert (await site.client.delete(f"{PROMPTS}/{other['id']}")).status_code == 200
    finally:
        impostor.engine.shutdown()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "removed"])
async def test_a_damaged_cache_file_costs_only_its_prompt(sites: Sites, damage: str) -> None:
    async with sites.open() as site:
        bad = await site.register(text="will be damaged", compression="prefix")
        good = await site.register(text="stays whole", compression="prefix")
        path = _cache_file(site, bad["id"])
    _damage(path, damage)
    async with sites.open() as site:
        assert (await site.client.get(f"{PROMPTS}/{bad['id']}")).status_code == 404
        shown = (await site.client.get(f"{PROMPTS}/{good['id']}")).json()
        assert lasting(shown) == lasting(good)
        body = {"prompt": " and", "prompt_id": good["id"], "max_tokens": 3}
        assert (await site.post("/v1/completions", body)).status_code == 200
        await site.register(text="will be damaged", compression="prefix")


async def test_another_prompts_file_is_not_taken_for_it(sites: Sites) -> None:
    async with sites.open() as site:
        first = await site.register(text="one text here", compression="prefix")
        second = await site.register(text="two text here", compression="prefix")
        paths = [_cache_file(site, p["id"]) for p in (first, second)]
    paths[0].write_bytes(paths[1].read_bytes())
    async with sites.open() as site:
        assert (await site.client.get(f"{PROMPTS}/{first['id']}")).status_code == 404
        assert (await site.client.get(f"{PROMPTS}/{second['id']}")).json()["status"] == "ready"


def _cache_file(site: Site, prompt_id: str) -> Path:
    return site.store.directory / "caches" / f"{site.store.get(prompt_id).cache_hash}.safetensors"


def _damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return
    if how == "flipped":
        data[-5] ^= 1
    path.write_bytes({"truncated": data[:-7], "emptied": b"", "flipped": bytes(data)}[how])
