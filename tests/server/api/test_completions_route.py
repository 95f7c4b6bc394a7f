"""POST /v1/completions."""

import json
from typing import Any

import pytest
import torch

from .conftest import GIST_MODEL, MAX_MODEL_LEN, Loaded, Site, sse

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"


async def complete(site: Site, prompt: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": GIST_MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 6, **fields}
    response = await site.post(PATH, body)
    assert response.status_code == 200, response.text
    return response.json()


def texts(body: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in body["choices"]]


def prompt_logprobs(loaded: Loaded, token_ids: list[int]) -> list[float]:
    """Log-probability of each token but the first, by transformers."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([token_ids])).logits[0, :-1]
    chosen = torch.tensor(token_ids[1:])[:, None]
    return torch.log_softmax(logits, -1).gather(1, chosen)[:, 0].tolist()


async def test_the_four_kinds_of_prompt_agree(site: Site, gist_loaded: Loaded) -> None:
    first, second = "Once upon", "In the end"
    ids = [gist_loaded.tokenizer.encode(text) for text in (first, second)]
    one = await complete(site, first)
    assert one["choices"][0]["text"] == gist_loaded.tokenizer.decode(
        gist_loaded.greedy(ids[0], 6), skip_special_tokens=True
    ).rstrip("\ufffd")
    both = await complete(site, [first, second])
    assert texts(both)[0] == texts(one)[0]
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert texts(await complete(site, ids[0])) == texts(one)
    assert texts(await complete(site, ids)) == texts(both)
    assert both["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])
    assert both["usage"]["completion_tokens"] == 12


async def test_the_default_is_sixteen_tokens_as_far_as_they_fit(site: Site) -> None:
    assert (await complete(site, "a", max_tokens=None))["usage"]["completion_tokens"] == 16
    ids = [10] * (MAX_MODEL_LEN - 5)
    assert (await complete(site, ids, max_tokens=None))["usage"]["completion_tokens"] == 5


async def test_echo_gives_the_prompt_back(site: Site) -> None:
    plain, echoed = await complete(site, "Once"), await complete(site, "Once", echo=True)
    assert texts(echoed) == ["Once" + texts(plain)[0]]
    body = {"model": GIST_MODEL, "prompt": "Once", "temperature": 0, "max_tokens": 6}
    chunks = sse(await site.post(PATH, {**body, "echo": True, "stream": True}))
    assert len(chunks) == 6
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == texts(echoed)[0]


async def test_echoed_logprobs_are_those_of_transformers(site: Site, gist_loaded: Loaded) -> None:
    prompt = "To be or not"
    ids = gist_loaded.tokenizer.encode(prompt)
    for max_tokens in (0, 1):
        body = await complete(site, prompt, echo=True, logprobs=2, max_tokens=max_tokens)
        logprobs = body["choices"][0]["logprobs"]
        assert len(logprobs["tokens"]) == len(ids) + max_tokens
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["token_logprobs"][1 : len(ids)] == pytest.approx(
            prompt_logprobs(gist_loaded, ids), abs=1e-4
        )
        assert logprobs["tokens"][: len(ids)] == list(prompt)
        assert logprobs["text_offset"][: len(ids)] == list(range(len(ids)))
        best = logprobs["top_logprobs"][1]
        assert max(best.values()) >= best[logprobs["tokens"][1]]
        assert body["usage"]["completion_tokens"] == max_tokens
        assert body["choices"][0]["finish_reason"] == "length"


async def test_streamed_logprobs_and_offsets_equal_the_whole_ones(site: Site) -> None:
    whole = (await complete(site, "Once", logprobs=1))["choices"][0]["logprobs"]
    body = {"model": GIST_MODEL, "prompt": "Once", "temperature": 0, "max_tokens": 6, "logprobs": 1}
    chunks = sse(await site.post(PATH, {**body, "stream": True}))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    streamed = [value for part in parts for value in part["token_logprobs"]]
    assert streamed == pytest.approx(whole["token_logprobs"], abs=1e-4)


async def test_many_choices_of_many_prompts(site: Site) -> None:
    body = await complete(site, ["a", "b"], n=2, best_of=2, temperature=1.0, seed=3)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 2
    chunks = sse(
        await site.post(
            PATH,
            {
                "model": GIST_MODEL,
                "prompt": ["a", "b"],
                "n": 2,
                "temperature": 1.0,
                "seed": 3,
                "max_tokens": 6,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
    )
    streamed = [""] * 4
    for chunk in chunks[:-1]:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == texts(body)
    assert chunks[-1]["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": {"id": "pmpt_x"}}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": "\udfff"}, None),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": ["a"] * 3000}, "prompt"),
        ({"prompt": ["a"] * 2000, "n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 50}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"stop_token_ids": ["x"]}, "stop_token_ids.0"),
    ],
)
async def test_bad_values_are_named(site: Site, fields: dict[str, Any], param: str | None) -> None:
    raw = json.dumps({"model": GIST_MODEL, "prompt": "a", **fields})
    headers = {"content-type": "application/json"}
    response = await site.client.post(PATH, content=raw, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    await complete(site, "still there")


async def test_too_long(site: Site) -> None:
    for body in (
        {"prompt": "x" * MAX_MODEL_LEN},
        {"prompt": [[10], [10] * 600]},
        {"prompt": "a", "max_tokens": MAX_MODEL_LEN},
    ):
        response = await site.post(PATH, {"model": GIST_MODEL, **body})
        assert response.status_code == 400
        message = response.json()["error"]["message"]
        assert message.startswith(f"This model's maximum context length is {MAX_MODEL_LEN} tokens.")
