"""Where prompts' caches lie: demotion, coming back, budgets, and what requests see of it."""

import asyncio
import threading
from typing import Any

import pytest
from gistserve.server.api.prompt_memory import PromptMemory
from gistserve.server.api.served_models import ServedModels
from gistserve.server.engine.engine import Engine
from gistserve.server.engine.errors import CacheFullError

from .conftest import GIST_MODEL, SMALL_POOL, Loaded, Site, Sites, until
from .test_limits import bearer
from .test_metrics import scrape

pytestmark = pytest.mark.anyio

PROMPTS = "/v1/prompts"
COMPLETIONS = "/v1/completions"
SLOT = 2 * 2 * 2 * 8 * 4  # layers, key and value, heads, width, fp32
BLOCK = 16 * SLOT


@pytest.fixture(scope="module")
def served(small: ServedModels) -> ServedModels:
    return small


def memory(blocks: int, host: int = 0) -> PromptMemory:
    return PromptMemory(device=blocks * BLOCK, host=host)


def engine_of(site: Site) -> Engine:
    engine = site.app.state.context.models.get(GIST_MODEL).engine
    assert isinstance(engine, Engine)
    return engine


async def register(site: Site, text: str, **fields: Any) -> str:
    """The id of a text kept as a prefix: one block for up to 16 characters."""
    made = await site.register(text=text, **{"compression": "prefix", **fields})
    return str(made["id"])


async def show(site: Site, prompt_id: str) -> dict[str, Any]:
    response = await site.client.get(f"{PROMPTS}/{prompt_id}")
    assert response.status_code == 200, response.text
    shown: dict[str, Any] = response.json()
    return shown


async def tiers(site: Site, *prompt_ids: str) -> list[str]:
    return [(await show(site, prompt_id))["storage"]["tier"] for prompt_id in prompt_ids]


async def use(site: Site, prompt_id: str, max_tokens: int = 3, status: int = 200) -> Any:
    """What follows the prompt, or the error."""
    body = {"prompt": " so", "prompt_id": prompt_id, "max_tokens": max_tokens, "temperature": 0}
    response = await site.post(COMPLETIONS, {**body, "ignore_eos": True})
    assert response.status_code == status, response.text
    answer = response.json()
    return answer["choices"][0]["text"] if status == 200 else answer["error"]


def count_loads(
    site: Site, monkeypatch: pytest.MonkeyPatch, go_on: threading.Event | None = None
) -> list[str]:
    """The ids of prompts whose caches are read from the disk from now on, each after `go_on`."""
    loads: list[str] = []
    load_cache = site.store.load_cache

    def counted(prompt_id: str) -> Any:
        loads.append(prompt_id)
        assert go_on is None or go_on.wait(60), "whoever waits for the load holds it up"
        return load_cache(prompt_id)

    monkeypatch.setattr(site.store, "load_cache", counted)
    return loads


# --- demotion and coming back ---


@pytest.mark.parametrize("compression", ["prefix", "gist"])
async def test_the_least_recently_used_leaves_and_comes_back(
    sites: Sites, compression: str
) -> None:
    async with sites.open(prompt_memory=memory(2)) as site:
        before = await scrape(site)
        a, b = [await register(site, f"text {i}", compression=compression) for i in "ab"]
        alone = [await use(site, a), await use(site, b)]
        c = await register(site, "text c", compression=compression)
        assert await tiers(site, a, b, c) == ["disk", "device", "device"]
        assert await use(site, a) == alone[0]
        assert await tiers(site, a, b, c) == ["device", "disk", "device"]
        await use(site, c)
        assert await use(site, b) == alone[1]
        assert await tiers(site, a, b, c) == ["disk", "device", "device"]
        assert engine_of(site).stats().num_pinned_blocks == 2
        after = await scrape(site)
        assert after["prompt_cache_loads_total{disk}"] == 2
        assert after["prompt_cache_demotions_total"] == 3
        assert before["prompt_cache_loads_total{disk}"] == before["prompt_caches{disk}"] == 0


async def test_a_copy_in_main_memory_comes_back_without_the_disk(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len("text a")  # a token, and so a slot, a character
    async with sites.open(prompt_memory=memory(1, host=2 * size * SLOT)) as site:
        a, b, c = [await register(site, f"text {i}") for i in "abc"]
        assert await tiers(site, a, b, c) == ["disk", "host", "device"]
        assert (await show(site, c))["storage"] == {
            "tier": "device",
            "device_bytes": BLOCK,
            "host_bytes": size * SLOT,
            "disk_bytes": size * SLOT,
        }
        loads = count_loads(site, monkeypatch)
        await use(site, b)
        assert loads == []
        assert await tiers(site, a, b, c) == ["disk", "device", "host"]
        await use(site, a)
        assert loads == [a]
        # The copies are of the two that were used last.
        assert await tiers(site, a, b, c) == ["device", "host", "disk"]
        found = await scrape(site)
        assert found["prompt_cache_loads_total{host}"] == 1
        assert found["prompt_cache_loads_total{disk}"] == 1
        for tier, count, each in (
            ("device", 1, BLOCK),
            ("host", 2, size * SLOT),
            ("disk", 3, size * SLOT),
        ):
            assert found[f"prompt_caches{{{tier}}}"] == count
            assert found[f"prompt_cache_bytes{{{tier}}}"] == count * each
        await site.client.delete(f"{PROMPTS}/{b}")
        assert (await scrape(site))["prompt_caches{host}"] == 1


async def test_what_is_too_large_for_main_memory_displaces_nothing(sites: Sites) -> None:
    size = len("text a")
    async with sites.open(prompt_memory=memory(1, host=size * SLOT)) as site:
        a = await register(site, "text a")
        large = await register(site, "a long text")
        assert await tiers(site, a, large) == ["host", "device"]
        assert (await show(site, large))["storage"]["host_bytes"] == 0


async def test_requests_for_one_prompt_load_it_once_and_the_loop_goes_on(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        first, second = await register(site, "text a"), await register(site, "text b")
        alone = [await use(site, first), await use(site, second)]
    async with sites.open() as site:
        assert await tiers(site, first, second) == ["disk", "disk"]
        go_on = threading.Event()
        loads = count_loads(site, monkeypatch, go_on)
        asked = [asyncio.create_task(use(site, first))]
        await until(lambda: loads)
        asked += [asyncio.create_task(use(site, p)) for p in (second, first, first, second)]
        assert (await site.client.get("/health")).status_code == 200
        go_on.set()
        answers = await asyncio.gather(*asked)
        assert answers == [alone[0], alone[1], alone[0], alone[0], alone[1]]
        assert loads == [first, second]
        assert (await show(site, first))["usage"]["requests"] == 4


async def test_a_request_waits_for_those_whose_prompt_must_go(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open(prompt_memory=memory(1)) as site:
        b, a = await register(site, "text b"), await register(site, "text a")
        alone = [await use(site, a, 40), await use(site, b, 5)]
        await use(site, a)
        gate = threading.Event()
        execute = engine_of(site)._core.runner.execute

        def held_up(*args: Any) -> Any:
            gate.wait(60)
            return execute(*args)

        monkeypatch.setattr(engine_of(site)._core.runner, "execute", held_up)
        ended: list[str] = []

        async def noted(name: str, prompt_id: str, max_tokens: int) -> Any:
            answer = await use(site, prompt_id, max_tokens)
            ended.append(name)
            return answer

        running = asyncio.create_task(noted("running", a, 40))
        await until(lambda: engine_of(site).stats().num_running == 1)
        first = asyncio.create_task(noted("first", b, 5))
        pinned = site.app.state.context.prompts.tiers
        await until(lambda: all(held.pinned is None for held in pinned.held(GIST_MODEL)))
        second = asyncio.create_task(noted("second", a, 5))
        admission = site.app.state.context.desks[GIST_MODEL].admission
        await until(lambda: admission.active == 3)
        assert ended == []
        assert await tiers(site, a, b) == ["disk", "disk"]  # one goes, the other is awaited
        gate.set()
        assert await running == alone[0]
        assert await first == alone[1]
        assert alone[0].startswith(await second)
        assert ended == ["running", "first", "second"]
        assert admission.active == admission.waiting_tokens == 0
        assert engine_of(site).stats().num_pinned_blocks == 1


async def test_a_registration_waits_for_nobody(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open(prompt_memory=memory(1)) as site:
        a = await register(site, "text a")
        monkeypatch.setattr(engine_of(site), "is_used", lambda pinned: True)
        b = await register(site, "text b")
        assert await tiers(site, a, b) == ["device", "disk"]
        monkeypatch.undo()
        await use(site, b)
        device = site.app.state.context.prompts.tiers._devices[GIST_MODEL]
        async with device.turn:  # as while another prompt is brought in
            c = await register(site, "text c")
        assert await tiers(site, a, b, c) == ["disk", "device", "disk"]


async def test_those_who_wait_for_a_prompt_count_in_the_queue(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        prompt_id = await register(site, "text a")
    async with sites.open(max_queue=0) as site:
        places = engine_of(site).max_num_seqs
        gate, load_cache = threading.Event(), site.store.load_cache

        def held_up(prompt_id: str) -> Any:
            gate.wait(60)
            return load_cache(prompt_id)

        monkeypatch.setattr(site.store, "load_cache", held_up)
        body = {"prompt": " so", "prompt_id": prompt_id, "max_tokens": 2}
        asked = [asyncio.create_task(site.post(COMPLETIONS, body)) for _ in range(places + 3)]
        await until(lambda: sum(task.done() for task in asked) == 3)
        assert [task.result().status_code for task in asked if task.done()] == [429] * 3
        gate.set()
        statuses = [response.status_code for response in await asyncio.gather(*asked)]
        assert statuses.count(200) == places


async def test_a_prompt_deleted_while_it_is_pinned_leaves_nothing(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        prompt_id = await register(site, "text a")
    async with sites.open(prompt_memory=memory(4, host=10**6)) as site:
        pinning, gate = threading.Event(), threading.Event()
        core_pin = engine_of(site)._core.pin

        def late(cache: Any) -> Any:
            pinning.set()
            gate.wait(60)
            return core_pin(cache)

        monkeypatch.setattr(engine_of(site)._core, "pin", late)
        waiting = asyncio.create_task(use(site, prompt_id, status=404))
        await until(pinning.is_set)
        assert (await site.client.delete(f"{PROMPTS}/{prompt_id}")).status_code == 200
        gate.set()
        assert (await waiting)["code"] == "prompt_not_found"
        await until(lambda: engine_of(site).stats().num_pinned_caches == 0)
        assert site.app.state.context.prompts.tiers._devices[GIST_MODEL]._budget.used == 0


async def test_a_prompt_deleted_while_a_request_waits_for_it(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        first, second = await register(site, "text a"), await register(site, "text b")
    async with sites.open(prompt_memory=memory(4, host=10**6)) as site:
        go_on = threading.Event()
        loads = count_loads(site, monkeypatch, go_on)
        waiting = [asyncio.create_task(use(site, first, status=404))]
        await until(lambda: loads == [first])
        waiting.append(asyncio.create_task(use(site, second, status=404)))
        admission = site.app.state.context.desks[GIST_MODEL].admission
        await until(lambda: admission.active == 2)
        for prompt_id in (first, second):  # one is being read, one is behind it
            response = await site.client.delete(f"{PROMPTS}/{prompt_id}")
            assert response.status_code == 200
        assert (await site.client.get(PROMPTS)).json()["data"] == []
        go_on.set()
        for error in await asyncio.gather(*waiting):
            assert error["code"] == "prompt_not_found"
        assert loads == [first]
        await until(lambda: engine_of(site).stats().num_pinned_caches == 0)
        assert (await scrape(site))["prompt_cache_bytes{host}"] == 0


async def test_a_request_that_waits_too_long_ends_and_leaves_nothing(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        a, b = await register(site, "text a"), await register(site, "text b")
    async with sites.open(prompt_memory=memory(1), request_timeout=1.5) as site:
        await use(site, a)
        engine = engine_of(site)
        monkeypatch.setattr(engine, "is_used", lambda pinned: True)
        unpin = engine.unpin
        held: list[Any] = []

        def never(pinned: Any) -> Any:
            held.append(pinned)
            return asyncio.futures.concurrent.futures.Future()  # type: ignore[attr-defined]

        monkeypatch.setattr(engine, "unpin", never)
        assert (await use(site, b, status=504))["code"] == "request_timeout"
        admission = site.app.state.context.desks[GIST_MODEL].admission
        assert admission.active == admission.waiting_tokens == 0
        monkeypatch.setattr(engine, "unpin", unpin)
        unpin(held[0])
        assert await use(site, b)
        assert await tiers(site, a, b) == ["disk", "device"]
        assert engine.stats().num_pinned_caches == 1


async def test_a_pin_that_nobody_waits_for_any_more_is_undone(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        prompt_id = await register(site, "text a")
    async with sites.open(request_timeout=1.5) as site:
        engine = engine_of(site)
        core_pin = engine._core.pin
        gone = threading.Event()

        def late(cache: Any) -> Any:
            gone.wait(30)
            return core_pin(cache)

        monkeypatch.setattr(engine._core, "pin", late)
        await use(site, prompt_id, status=504)
        gone.set()
        await until(lambda: engine.stats().num_pinned_caches == 0)
        monkeypatch.undo()
        assert await tiers(site, prompt_id) == ["disk"]
        await use(site, prompt_id)
        assert engine.stats().num_pinned_caches == 1
        await site.client.delete(f"{PROMPTS}/{prompt_id}")
        await until(lambda: engine.stats().num_pinned_caches == 0)


async def test_idle_prompts_make_room_for_what_compressing_needs(sites: Sites) -> None:
    async with sites.open(prompt_memory=memory(SMALL_POOL - 8)) as site:
        kept = [await register(site, f"{i} " + "x" * 300) for i in range(2)]
        assert await tiers(site, *kept) == ["device", "device"]
        # Of 64 blocks 38 are pinned; 28 more are needed to compress, and one to keep the gist.
        made = await site.register(text="y" * 440, compression="gist")
        assert made["storage"]["tier"] == "device"
        assert await tiers(site, *kept) == ["disk", "device"]


# --- budgets that are full ---


async def test_a_prompt_larger_than_the_devices_budget_is_refused_at_once(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open(prompt_memory=memory(2)) as site:
        with monkeypatch.context() as patch:
            patch.setattr(engine_of(site), "compress", lambda *_: pytest.fail("it was computed"))
            response = await site.post(PROMPTS, {"text": "x" * 40, "compression": "prefix"})
        assert response.status_code == 507
        error = response.json()["error"]
        assert error["code"] == "prompt_memory_too_small"
        for told in (str(3 * BLOCK), str(2 * BLOCK), "--prompt-memory"):
            assert told in error["message"]
        assert len(site.store) == 0
        # As a gist it fits.
        await site.register(text="x" * 40, compression="gist")


async def test_a_smaller_budget_after_a_restart_fails_what_no_longer_fits(sites: Sites) -> None:
    async with sites.open() as site:
        large, small = await register(site, "x" * 40), await register(site, "text a")
        answer = await use(site, large)
    async with sites.open(prompt_memory=memory(2)) as site:
        shown = await show(site, large)
        assert shown["status"] == "failed"
        assert "--prompt-memory" in shown["error"]
        assert (await use(site, large, status=400))["code"] == "prompt_failed"
        await use(site, small)
        assert (await scrape(site))["prompt_caches{disk}"] == 1  # the usable ones
    async with sites.open() as site:
        assert await use(site, large) == answer


async def test_a_full_store_refuses_visibly(sites: Sites) -> None:
    async with sites.open() as site:
        first = await register(site, "text a", name="a")
        size = site.store.num_bytes
    sites.store_limit = 2 * size + 200
    async with sites.open() as site:
        site.app.state.context.prompts.sweep, sweep = _nothing, site.app.state.context.prompts.sweep
        second = await register(site, "text b", name="b", ttl="60s")
        listed = (await site.client.get(PROMPTS)).json()["data"]
        response = await site.post(PROMPTS, {"text": "text c", "compression": "prefix"})
        assert response.status_code == 507
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("store_full", "server_error")
        for told in (str(sites.store_limit), "--store-limit", "elete prompts"):
            assert told in error["message"]
        assert (await site.client.get(PROMPTS)).json()["data"] == listed
        assert {p["id"] for p in listed} == {first, second}
        assert engine_of(site).stats().num_pinned_caches == 1
        # What has expired is in nobody's way, even before the next sweep.
        site.clock.now += 61
        site.app.state.context.prompts.sweep = sweep
        third = await register(site, "text c")
        await site.client.delete(f"{PROMPTS}/{first}")
        fourth = await register(site, "text d")
        await use(site, third)
        await use(site, fourth)


async def test_a_change_is_refused_where_the_store_has_no_room_for_it(sites: Sites) -> None:
    async with sites.open() as site:
        prompt_id = await register(site, "text a", metadata={"a": "x" * 300})
        sites.store_limit = site.store.num_bytes + 50
    async with sites.open() as site:
        before = await show(site, prompt_id)
        path = f"{PROMPTS}/{prompt_id}"
        response = await site.client.patch(path, json={"metadata": {"a": "x" * 400}})
        assert response.status_code == 507
        error = response.json()["error"]
        assert error["code"] == "store_full"
        assert "--store-limit" in error["message"]
        assert await show(site, prompt_id) == before
        for metadata in ({"a": "x" * 330}, {"b": "y"}, {"b": "y" * 340}):
            changed = await site.client.patch(path, json={"metadata": metadata})
            assert changed.json()["metadata"] == metadata, changed.text
        assert site.store.num_bytes <= sites.store_limit


async def _nothing() -> None:
    return None


async def test_a_store_that_is_full_is_noticed_before_anything_is_computed(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites.store_limit = 1
    async with sites.open() as site:
        monkeypatch.setattr(engine_of(site), "compress", lambda *_: pytest.fail("it was computed"))
        response = await site.post(PROMPTS, {"text": "text a"})
        assert response.json()["error"]["code"] == "store_full"


async def test_server_info_gives_the_budgets(sites: Sites) -> None:
    sites.store_limit = 10**6
    async with sites.open(prompt_memory=memory(5, host=123)) as site:
        body = (await site.client.get("/server_info")).json()
        assert body["models"][0]["prompt_bytes"] == 5 * BLOCK
        assert body["prompt_memory"] == {"host_bytes": 123, "disk_bytes": 10**6}
    sites.store_limit = None
    async with sites.open() as site:
        body = (await site.client.get("/server_info")).json()
        assert body["models"][0]["prompt_bytes"] == SMALL_POOL // 2 * BLOCK
        assert body["prompt_memory"] == {"host_bytes": 0, "disk_bytes": None}


async def test_a_budget_above_the_cache_is_refused(sites: Sites) -> None:
    with pytest.raises(ValueError, match=r"whole key/value cache.*--kv-cache-memory"):
        async with sites.open(prompt_memory=memory(SMALL_POOL + 1)):
            pass


@pytest.mark.parametrize("fields", [{"device": 0}, {"host": -1}])
def test_bad_budgets_are_named(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="prompt_"):
        PromptMemory(**fields)


def test_main_memory_is_a_tier_beside_a_gpu_alone(small: ServedModels) -> None:
    from dataclasses import replace

    info = next(iter(small)).engine.info
    on_gpu = replace(info, device="cuda:0")
    assert PromptMemory().host_limit([info, info]) == 0
    assert PromptMemory().host_limit([info, on_gpu]) == 4 * 2**30
    assert PromptMemory(host=0).host_limit([on_gpu]) == 0
    assert PromptMemory(host=5).host_limit([info]) == 5


# --- what can go wrong while one comes back ---


async def test_a_cache_found_broken_fails_its_prompt_until_it_is_registered_again(
    sites: Sites,
) -> None:
    async with sites.open() as site:
        prompt_id = await register(site, "text a", name="a")
        answer = await use(site, prompt_id)
    async with sites.open() as site:
        path = next((site.store.directory / "caches").iterdir())
        path.write_bytes(path.read_bytes()[:-1])
        assert (await use(site, prompt_id, status=400))["code"] == "prompt_failed"
        shown = await show(site, prompt_id)
        assert shown["status"] == "failed"
        assert "could not be restored" in shown["error"]
        assert (await use(site, prompt_id, status=400))["code"] == "prompt_failed"
        assert engine_of(site).stats().num_pinned_caches == 0
        assert await register(site, "text a", name="a") == prompt_id
        assert await use(site, prompt_id) == answer


async def test_what_can_be_had_later_is_unavailable_and_not_failed(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        prompt_id = await register(site, "text a")
    async with sites.open() as site:
        before = engine_of(site).stats().num_free_blocks
        for place, name, error in (
            (site.store, "load_cache", OSError(24, "Too many open files")),
            (engine_of(site)._core, "pin", CacheFullError("No room.")),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, _raising(error))
                response = await site.post(COMPLETIONS, {"prompt": "x", "prompt_id": prompt_id})
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["code"] == "prompt_unavailable"
            assert (await show(site, prompt_id))["status"] == "ready"
        await use(site, prompt_id)
        assert engine_of(site).stats().num_free_blocks == before - 1


async def test_a_registration_is_good_even_where_the_device_has_no_room_just_then(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        with monkeypatch.context() as patch:
            patch.setattr(engine_of(site)._core, "pin", _raising(CacheFullError("No room.")))
            prompt_id = await register(site, "text a")
        assert await tiers(site, prompt_id) == ["disk"]
        await use(site, prompt_id)
        assert await tiers(site, prompt_id) == ["device"]


async def test_what_the_model_cannot_use_is_refused_before_it_is_stored(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites.open() as site:
        refusal = ValueError("a gist cannot be used on a model with sliding-window layers")
        monkeypatch.setattr(engine_of(site), "check_cache", _raising(refusal))
        response = await site.post(PROMPTS, {"text": "text a"})
        assert response.status_code == 400
        assert "sliding-window" in response.json()["error"]["message"]
        assert len(site.store) == 0


async def test_prompts_can_be_deleted_when_their_engine_has_stopped(
    sites: Sites, gist_loaded: Loaded
) -> None:
    model = gist_loaded.serve()
    async with sites.open(ServedModels([model])) as site:
        prompt_id = await register(site, "text a")
        model.engine.shutdown()
        assert (await use(site, prompt_id, status=503))["code"] == "engine_unavailable"
        response = await site.client.delete(f"{PROMPTS}/{prompt_id}")
        assert response.status_code == 200
        assert len(site.store) == 0


def _raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


async def test_prompts_of_two_owners_share_a_cache(sites: Sites) -> None:
    async with sites.open(api_keys=("one", "two"), prompt_memory=memory(1)) as site:
        ids = []
        for key in ("one", "two"):
            body = {"text": "text a", "compression": "prefix"}
            response = await site.post(PROMPTS, body, headers=bearer(key))
            assert response.status_code == 201
            assert response.json()["storage"]["tier"] == "device"
            ids.append(response.json()["id"])
        assert engine_of(site).stats().num_pinned_caches == 1
        response = await site.client.delete(f"{PROMPTS}/{ids[0]}", headers=bearer("one"))
        assert response.status_code == 200
        body = {"prompt": " so", "prompt_id": ids[1], "max_tokens": 2}
        response = await site.post(COMPLETIONS, body, headers=bearer("two"))
        assert response.status_code == 200
        await site.client.delete(f"{PROMPTS}/{ids[1]}", headers=bearer("two"))
        await until(lambda: engine_of(site).stats().num_pinned_caches == 0)


async def test_random_use_keeps_every_budget_and_every_answer(sites: Sites) -> None:
    """Many clients on a device for three of nine prompts, each answered as alone."""
    async with sites.open(prompt_memory=memory(30)) as site:
        ids = [await register(site, f"text {i}" + "x" * (i % 3) * 8) for i in range(9)]
        alone = {prompt_id: await use(site, prompt_id, 12) for prompt_id in ids}
    async with sites.open(prompt_memory=memory(4, host=8 * 10 * SLOT)) as site:
        most = 0

        async def client(number: int) -> None:
            nonlocal most
            for step in range(12):
                prompt_id = ids[(number * 5 + step * step) % len(ids)]
                assert await use(site, prompt_id, 12) == alone[prompt_id]
                most = max(most, engine_of(site).stats().num_pinned_blocks)

        await asyncio.gather(*(client(number) for number in range(8)))
        assert 2 <= most <= 4
        found = await scrape(site)
        assert found["prompt_cache_bytes{device}"] <= 4 * BLOCK
        assert found["prompt_cache_bytes{host}"] <= 80 * SLOT
        assert found["prompt_cache_loads_total{disk}"] > 9
        assert found["prompt_cache_loads_total{host}"] > 0
        engine_of(site)._core.scheduler.pool.check()


# --- lives ---


async def test_use_renews_a_ttl_and_nothing_else(sites: Sites) -> None:
    async with sites.open() as site:
        start = int(site.clock.now)
        renewed = await register(site, "text a", ttl="60s")
        path = f"{PROMPTS}/{renewed}"

        async def after(seconds: int) -> tuple[int, str | None]:
            """Expiry, counted from the start, once the prompt was used so much later."""
            site.clock.now += seconds
            await use(site, renewed)
            shown = await show(site, renewed)
            return shown["expires_at"] - start, shown["ttl"]

        assert await after(50) == (110, "60s")
        await site.client.get(path)
        await site.client.patch(path, json={"metadata": {"a": "b"}})
        assert await after(50) == (160, "60s")
        await site.client.patch(path, json={"expires_at": start + 300})
        assert await after(50) == (300, None)
        await site.client.patch(path, json={"ttl": "90.5s"})
        assert (await show(site, renewed))["expires_at"] == start + 150 + 91
        assert await after(10) == (160 + 91, "91s")
        await site.client.patch(path, json={"ttl": None})
        await use(site, renewed)
        assert (await show(site, renewed))["expires_at"] is None
        await site.client.patch(path, json={"ttl": "30s"})
    async with sites.open() as site:
        assert await after(10) == (170 + 30, "30s")
        site.clock.now += 31
        assert (await site.client.get(path)).status_code == 404
