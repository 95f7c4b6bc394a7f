"""/metrics and /server_info."""

import time

import pytest
import torch
from gistserve.server.api.answers import ServerInfo
from prometheus_client.parser import text_string_to_metric_families

from .conftest import GIST_MODEL, GIST_TOKENS, PLAIN_MODEL, Loaded, Site, Sites

pytestmark = pytest.mark.anyio


async def scrape(site: Site, model: str = GIST_MODEL) -> dict[str, float]:
    """Samples of one model by name; those with more labels as `name{value}`."""
    response = await site.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            assert sample.labels.get("model_name") in (GIST_MODEL, PLAIN_MODEL)
            if sample.labels["model_name"] == model:
                more = [v for k, v in sample.labels.items() if k != "model_name"]
                name = sample.name.removeprefix("gistserve:")
                found[name + "".join(f"{{{value}}}" for value in more)] = sample.value
    return found


async def test_counts_equal_the_usage_of_what_was_answered(site: Site) -> None:
    before = await scrape(site)
    assert before["request_success_total{stop}"] == before["generation_tokens_total"] == 0
    usages = [
        (await site.chat("Hello", n=2, max_tokens=6))["usage"],
        (await site.chat("Hello", max_tokens=5))["usage"],
    ]
    text = (await site.chat("Hello", max_tokens=20))["choices"][0]["message"]["content"]
    stopped = await site.chat("Hello", max_tokens=20, stop=text[4:7])
    assert stopped["choices"][0]["finish_reason"] == "stop"
    usages += [(await site.chat("Hello", max_tokens=20))["usage"], stopped["usage"]]
    after = await scrape(site)
    # One answer above was made to find its text.
    total = sum(usage["completion_tokens"] for usage in usages) + 20
    assert after["generation_tokens_total"] == total
    prompts = [usage["prompt_tokens"] for usage in usages]
    assert after["prompt_tokens_total"] == sum(prompts) + prompts[0]
    assert after["request_success_total{length}"] == 5
    assert after["request_success_total{stop}"] == 1
    assert after["e2e_request_latency_seconds_count"] == 5
    assert after["time_to_first_token_seconds_count"] == 5
    assert after["inter_token_latency_seconds_count"] == total - 6  # six choices
    assert (await scrape(site, PLAIN_MODEL))["generation_tokens_total"] == 0


async def test_latencies_begin_at_the_arrival(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    render = site.app.state.context.desks[GIST_MODEL].renderer.chat

    async def slowly(*args, **more):  # type: ignore[no-untyped-def]
        time.sleep(0.2)
        return await render(*args, **more)

    monkeypatch.setattr(site.app.state.context.desks[GIST_MODEL].renderer, "chat", slowly)
    await site.chat("Hello", max_tokens=3)
    found = await scrape(site)
    assert found["time_to_first_token_seconds_sum"] >= 0.2
    assert found["e2e_request_latency_seconds_sum"] >= found["time_to_first_token_seconds_sum"]
    assert found["inter_token_latency_seconds_count"] == 2


async def test_gists_show_what_they_hold_and_save(site: Site) -> None:
    assert (await scrape(site))["gist_prompts"] == 0
    saved = (await scrape(site))["gist_tokens_saved_total"]
    prompt = await site.register()
    await site.chat("Hello", prompt_id=prompt["id"])
    found = await scrape(site)
    assert found["gist_prompts"] == 1
    compression = prompt["compression"]
    assert found["gist_cache_bytes"] == compression["cache_bytes"]
    assert found["gist_tokens_saved_total"] - saved == (
        compression["prompt_tokens"] - compression["slots"]
    )
    assert found["kv_cache_usage_perc"] > 0


async def test_server_info_gives_the_sizes(site: Site, gist_loaded: Loaded) -> None:
    body = (await site.client.get("/server_info")).json()
    info = {model.name: model for model in ServerInfo.model_validate(body).models}
    gist = info[GIST_MODEL]
    weights = {p.data_ptr(): p.nbytes for p in gist_loaded.model.parameters()}
    buffers = sum(b.nbytes for b in gist_loaded.model.buffers())
    assert gist.weight_bytes == sum(weights.values()) + buffers
    config = gist_loaded.model.config
    head = config.hidden_size // config.num_attention_heads
    assert gist.kv_bytes_per_token == (
        2 * config.num_hidden_layers * config.num_key_value_heads * head * torch.float32.itemsize
    )
    assert (gist.gist_tokens, info[PLAIN_MODEL].gist_tokens) == (GIST_TOKENS, None)
    assert (gist.dtype, gist.device, gist.num_blocks) == ("float32", "cpu", 256)
    assert body["process"]["rss_bytes"] > 10 * 2**20


async def test_a_key_guards_the_sizes_but_not_the_metrics(sites: Sites) -> None:
    async with sites.open(api_keys=("k",)) as site:
        assert (await site.client.get("/metrics")).status_code == 200
        assert (await site.client.get("/server_info")).status_code == 401
        for path in ("/tokenize", "/detokenize"):
            assert (await site.post(path, {})).status_code == 401
