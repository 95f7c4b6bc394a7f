"""POST /v1/embeddings, beside transformers' own hidden states."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gistserve.server.api.answers import EmbeddingList
from gistserve.server.api.served_models import ServedModels
from numpy.typing import NDArray

from .conftest import GIST_MODEL, MAX_MODEL_LEN, PLAIN_MODEL, Loaded, Site, Sites, until

pytestmark = pytest.mark.anyio

PATH = "/v1/embeddings"
TEXTS = ["a", "The parcel has not come.", "Where is it? " * 30]


@pytest.fixture(scope="module")
def embedders(gist_loaded: Loaded, plain_loaded: Loaded) -> Iterator[ServedModels]:
    plain = plain_loaded.serve()
    models = [
        replace(gist_loaded.serve(max_num_batched_tokens=64), pooling="last"),
        plain,
        replace(plain, name="mean", pooling="pooling by mean_tokens"),
    ]
    yield ServedModels(models)
    for model in models:
        model.engine.shutdown()


@pytest.fixture
async def site(embedders: ServedModels, tmp_path: Path) -> AsyncIterator[Site]:
    async with Sites(embedders, tmp_path / "store").open() as opened:
        yield opened


async def embed(site: Site, given: Any, **fields: Any) -> dict[str, Any]:
    response = await site.post(PATH, {"model": GIST_MODEL, "input": given, **fields})
    assert response.status_code == 200, response.text
    return EmbeddingList.model_validate(response.json()).model_dump()


@torch.no_grad()
def expected(loaded: Loaded, token_ids: list[int]) -> NDArray[np.float32]:
    state = loaded.model.model(torch.tensor([token_ids])).last_hidden_state[0, -1]
    return (state / state.norm()).numpy()


async def test_every_form_of_input(site: Site, gist_loaded: Loaded) -> None:
    ids = [gist_loaded.tokenizer.encode(text) for text in TEXTS]
    for given in (TEXTS, ids):
        answer = await embed(site, given)
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
        for entry, tokens in zip(answer["data"], ids, strict=True):
            np.testing.assert_allclose(
                entry["embedding"], expected(gist_loaded, tokens), rtol=0, atol=1e-5
            )
        total = sum(map(len, ids))
        assert answer["usage"] == {"prompt_tokens": total, "total_tokens": total}
        assert answer["model"] == GIST_MODEL
    for single in (TEXTS[1], ids[1]):
        (entry,) = (await embed(site, single))["data"]
        np.testing.assert_allclose(
            entry["embedding"], expected(gist_loaded, ids[1]), rtol=0, atol=1e-5
        )


async def test_base64_is_the_same_numbers(site: Site) -> None:
    for text in TEXTS:  # alone, since other inputs in a step change its last bits
        (entry,) = (await embed(site, text))["data"]
        (other,) = (await embed(site, text, encoding_format="base64"))["data"]
        numbers = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        np.testing.assert_array_equal(numbers, np.array(entry["embedding"], dtype=np.float32))


async def test_fewer_dimensions_are_of_length_1_again(site: Site) -> None:
    (whole,) = (await embed(site, TEXTS[1]))["data"]
    (cut,) = (await embed(site, TEXTS[1], dimensions=5, user="me"))["data"]
    head = np.array(whole["embedding"][:5])
    np.testing.assert_allclose(cut["embedding"], head / np.linalg.norm(head), rtol=0, atol=1e-6)


async def test_beside_chats_they_are_the_same(site: Site) -> None:
    alone = await embed(site, TEXTS)
    chats = [asyncio.create_task(site.chat("Hello", max_tokens=40)) for _ in range(3)]
    together = await embed(site, TEXTS)
    assert [chat["usage"]["completion_tokens"] for chat in await asyncio.gather(*chats)]
    for entry, other in zip(alone["data"], together["data"], strict=True):
        np.testing.assert_allclose(entry["embedding"], other["embedding"], rtol=0, atol=1e-5)


async def test_they_are_admitted_and_counted_as_others_are(site: Site) -> None:
    await embed(site, TEXTS)
    desk = site.app.state.context.desks[GIST_MODEL]
    assert desk.admission.active == 0
    assert desk.meter.finished["stop"] == 3
    assert desk.meter.generation_tokens == 0
    engine = desk.model.engine
    await until(lambda: engine.stats().num_free_blocks == engine.stats().num_blocks)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": []}, "input", "must not be empty"),
        ({"input": [[]]}, "input", "at least one token"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": [10**6]}, "input", "outside the vocabulary"),
        ({"input": "a" * (MAX_MODEL_LEN + 1)}, "input", "maximum context length is 512"),
        ({"input": None}, "input", "required"),
        ({"dimensions": 33}, "dimensions", "at most 32"),
        ({"dimensions": 0}, "dimensions", "greater than"),
        ({"encoding_format": "int8"}, "encoding_format", "float"),
        ({"model": PLAIN_MODEL}, "model", "--embeddings"),
        ({"model": "mean"}, "model", "pooling by mean_tokens"),
        ({"model": f"{GIST_MODEL}/support"}, "model", "behind no prompt"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    site: Site, fields: dict[str, Any], param: str, message: str
) -> None:
    response = await site.post(PATH, {"model": GIST_MODEL, "input": "a", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]


async def test_a_prompt_of_the_whole_context_fits(site: Site) -> None:
    answer = await embed(site, "a" * MAX_MODEL_LEN)
    assert answer["usage"]["prompt_tokens"] == MAX_MODEL_LEN


async def test_an_unknown_model_is_404(site: Site) -> None:
    assert (await site.post(PATH, {"model": "nobody", "input": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/responses", {"input": "Hello"}),
        ("/v1/prompts", {"text": "Hello"}),
    ],
)
async def test_a_model_made_for_embeddings_does_nothing_else(
    plain_loaded: Loaded, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    model = replace(plain_loaded.serve(), pooling="last", generates=False)
    try:
        async with Sites(ServedModels([model]), tmp_path / "store").open() as site:
            response = await site.post(path, body)
            assert response.status_code == 400
            error = response.json()["error"]
            assert (error["param"], error["code"]) == ("model", "model_not_supported")
            assert "/v1/embeddings" in error["message"]
            assert (await site.post(PATH, {"input": "Hello"})).status_code == 200
            assert (await site.post("/tokenize", {"prompt": "Hello"})).status_code == 200
    finally:
        model.engine.shutdown()
