"""What clients may say about sampling has its effect over HTTP."""

import asyncio
from collections import Counter
from typing import Any

import pytest
import torch

from .conftest import GIST_MODEL, Loaded, Site

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"


async def complete(site: Site, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": GIST_MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 12, **fields}
    response = await site.post(PATH, body)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


async def test_a_bias_chooses_and_forbids(site: Site, gist_loaded: Loaded) -> None:
    wanted = gist_loaded.tokenizer.convert_tokens_to_ids("z")
    (choice,) = await complete(site, "Once", logit_bias={str(wanted): 100})
    assert choice["text"] == "z" * 12
    (free,) = await complete(site, "Once")
    first = gist_loaded.tokenizer.convert_tokens_to_ids(free["text"][0])
    (kept,) = await complete(site, "Once", logit_bias={str(first): -100})
    assert free["text"][0] not in kept["text"]


async def test_penalties_spread_the_letters(site: Site) -> None:
    def most(text: str) -> int:
        return Counter(text).most_common(1)[0][1]

    (plain,) = await complete(site, "aaaa", max_tokens=30, logit_bias={"71": 1.0})
    for penalty in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        (spread,) = await complete(site, "aaaa", max_tokens=30, **penalty, logit_bias={"71": 1.0})
        assert most(spread["text"]) < most(plain["text"])


async def test_the_repetition_penalty_counts_a_registered_prompt_as_any_other(site: Site) -> None:
    messages = [{"role": "system", "content": "Say gist or prefix, plainly."}]

    async def ask(**more: Any) -> str:
        body = {"model": GIST_MODEL, "temperature": 0, "max_tokens": 24, **more}
        answer = (await site.post("/v1/chat/completions", body)).json()
        return str(answer["choices"][0]["message"]["content"])

    user = [{"role": "user", "content": "Now"}]
    whole = await ask(messages=messages + user, repetition_penalty=3.0)
    prompt = await site.register(messages=messages, compression="prefix")
    behind = await ask(messages=user, prompt_id=prompt["id"], repetition_penalty=3.0)
    assert behind == whole
    assert whole != await ask(messages=messages + user)


async def test_a_seed_repeats_beside_other_requests(site: Site) -> None:
    request = {"temperature": 1.0, "seed": 11, "n": 2, "top_p": 0.9}
    alone = [choice["text"] for choice in await complete(site, "Once", **request)]
    assert alone[0] != alone[1]
    others = [complete(site, f"Other {i}", temperature=1.0, max_tokens=20 + i) for i in range(6)]
    beside, *_ = await asyncio.gather(complete(site, "Once", **request), *others)
    assert [choice["text"] for choice in beside] == alone


async def test_log_likelihoods_as_lm_eval_asks_for_them(site: Site, gist_loaded: Loaded) -> None:
    """Its `local-completions`: token ids in batches, echo, one token more, greedy by the top."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(6, 262, (n,), generator=generator).tolist() for n in (5, 300, 40)]
    choices = await complete(
        site, prompts, max_tokens=1, logprobs=1, echo=True, seed=1234, ignore_eos=True
    )
    for prompt, choice in zip(prompts, choices, strict=True):
        with torch.no_grad():
            logits = gist_loaded.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(prompt) + 1
        expected = logits[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist()
        assert found["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-4)
        best = [max(top, key=top.__getitem__) for top in found["top_logprobs"][1:-1]]
        greedy = [a == b for a, b in zip(found["tokens"][1:-1], best, strict=True)]
        assert greedy == (logits[:-1].argmax(-1) == torch.tensor(prompt[1:])).tolist()


async def test_log_likelihoods_across_a_gist_are_refused(site: Site) -> None:
    prompt = await site.register(text="Long instructions.\n")
    body = {"prompt": "a", "prompt_id": prompt["id"], "echo": True, "logprobs": 1}
    response = await site.post(PATH, body)
    assert response.status_code == 400
    assert "registered prompt" in response.json()["error"]["message"]
