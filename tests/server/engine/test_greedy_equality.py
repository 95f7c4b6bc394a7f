"""Greedy tokens equal transformers' generate, whatever the engine does in between."""

import asyncio

import pytest
from gistserve.server.engine.engine import Engine, EngineConfig
from gistserve.server.engine.request import Request

from ...families import FAMILIES, tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, reference


def requests(tag=""):
    return {n: Request(n + tag, tokens, GREEDY) for n, tokens in PROMPTS.items()}


def run_all(driver, tag=""):
    for request in requests(tag).values():
        driver.add(request)
    driver.run()
    return {name: driver.tokens(name + tag) for name in PROMPTS}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def make_driver(request):
    drivers = []

    def make(family, **config):
        model = tiny_model(family).to(request.param)
        drivers.append(Driver(model, max_num_seqs=8, **config))
        return drivers[-1]

    yield make
    for driver in drivers:
        assert driver.core.scheduler.pool.num_used == 0
        driver.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_then_in_a_mixed_batch_of_prefix_hits(family, make_driver):
    driver = make_driver(family)
    for name, request in requests().items():
        driver.add(request)
        driver.run()
        assert driver.tokens(name) == reference(family)[name], name
    assert run_all(driver, tag="-again") == reference(family)
    hits = driver.outputs["p52-again"][0].num_cached_tokens
    assert hits == 48  # twelve blocks of four; the last token is computed


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_in_chunks(family, make_driver):
    driver = make_driver(family, max_num_batched_tokens=7, enable_prefix_caching=False)
    assert run_all(driver) == reference(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_after_preemption(family, prefix_caching, make_driver):
    driver = make_driver(
        family, num_blocks=17, max_num_batched_tokens=23, enable_prefix_caching=prefix_caching
    )
    for request in reversed(requests().values()):
        driver.add(request)
    while driver.core.has_work:
        driver.step()
        if driver.core.scheduler.num_running > 1 and driver.core.stats().num_steps % 4 == 0:
            driver.core.scheduler._preempt_newest()
    assert driver.core.stats().num_preemptions >= 3
    assert {name: driver.tokens(name) for name in PROMPTS} == reference(family)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_oss", "deepseek_v3", "gpt2"])
def test_streamed(family):
    engine = Engine(tiny_model(family), EngineConfig(num_blocks=64, block_size=4))
    engine.start()

    async def collect(request):
        outputs = [output async for output in engine.generate(request)]
        assert [len(o.new_token_ids) for o in outputs] == [1] * len(outputs)
        return [o.new_token_ids[0] for o in outputs]

    async def collect_all():
        return await asyncio.gather(*(collect(r) for r in requests().values()))

    try:
        streamed = asyncio.run(collect_all())
    finally:
        engine.shutdown()
    assert dict(zip(PROMPTS, streamed, strict=True)) == reference(family)
