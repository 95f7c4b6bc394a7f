"""The three ways of using a registered prompt, and what the answers say of it."""

from typing import Any

import pytest
import torch
from gistserve.compress.compressor import GistCompressor

from .conftest import GIST_MODEL, GIST_TOKENS, PLAIN_MODEL, Loaded, Site, sse

pytestmark = pytest.mark.anyio

SYSTEM = {
    "role": "system",
    "content": "You route messages. Refunds go to Billing, parcels to Post.",
}
CHAT = "/v1/chat/completions"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def render(loaded: Loaded, messages: list[dict[str, str]], *, answer: bool) -> list[int]:
    return loaded.tokenizer.apply_chat_template(
        messages, add_generation_prompt=answer, return_dict=False
    )


@torch.no_grad()
def two_pass_greedy(loaded: Loaded, prompt: list[int], rest: list[int], count: int) -> list[int]:
    """Greedy tokens after `rest` on the gist cache of `prompt`, by transformers alone."""
    from transformers import DynamicCache

    gist = GistCompressor(loaded.model, loaded.adapter, fingerprint="x").compress(prompt)
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(gist.keys, gist.values, strict=True)):
        cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], layer)
    answer: list[int] = []
    tokens, position = rest, gist.next_position
    while len(answer) < count:
        positions = torch.arange(position, position + len(tokens))[None]
        output = loaded.model(
            input_ids=torch.tensor([tokens]), position_ids=positions, past_key_values=cache
        )
        position += len(tokens)
        tokens = [int(output.logits[0, -1].argmax())]
        answer += tokens
    return answer


async def answer(site: Site, *texts: str, **fields: Any) -> dict[str, Any]:
    return await site.chat(*texts, max_tokens=10, ignore_eos=True, **fields)


def said(body: dict[str, Any]) -> str:
    return body["choices"][0]["message"]["content"]


async def test_gist_by_id_answers_as_two_passes_do(site: Site, gist_loaded: Loaded) -> None:
    prompt = await site.register(messages=[SYSTEM], compression="gist")
    body = await answer(site, "My parcel?", prompt_id=prompt["id"])
    registered = render(gist_loaded, [SYSTEM], answer=False)
    whole = render(gist_loaded, [SYSTEM, user("My parcel?")], answer=True)
    rest = whole[len(registered) :]
    expected = two_pass_greedy(gist_loaded, registered, rest, 10)
    assert said(body) == gist_loaded.tokenizer.decode(expected).rstrip("\ufffd")
    assert body["prompt_id"] == prompt["id"]
    assert body["usage"]["prompt_tokens"] == len(whole)
    assert body["usage"]["prompt_tokens_details"] == {
        "cached_tokens": len(registered),
        "gist_tokens": GIST_TOKENS + 1,  # with the sink
    }
    # The gist is lossy: this is not what the full prompt answers.
    full = gist_loaded.greedy(whole, 10)
    assert expected != full


async def test_prefix_by_id_answers_as_the_full_prompt_does(site: Site) -> None:
    prompt = await site.register(messages=[SYSTEM], compression="prefix")
    body = await answer(site, "My parcel?", prompt_id=prompt["id"])
    await site.client.delete(f"/v1/prompts/{prompt['id']}")
    request = {
        "model": GIST_MODEL,
        "messages": [SYSTEM, user("My parcel?")],
        "temperature": 0,
        "max_tokens": 10,
        "ignore_eos": True,
    }
    without = (await site.post(CHAT, request)).json()
    assert "prompt_id" not in without
    assert said(body) == said(without)
    assert body["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"]
    details = body["usage"]["prompt_tokens_details"]
    # At least: the engine may know more of this prompt from another test.
    assert details["cached_tokens"] >= prompt["compression"]["prompt_tokens"]
    assert details["gist_tokens"] == 0


async def test_every_way_gives_the_same_answer(site: Site) -> None:
    prompt = await site.register(messages=[SYSTEM], compression="gist", name="routing-v1.0")
    by_id = await answer(site, "My parcel?", prompt_id=prompt["id"])
    by_reference = await answer(site, "My parcel?", prompt={"id": prompt["id"]})
    by_model = await answer(site, "My parcel?", model=f"{GIST_MODEL}/routing-v1.0")
    unnamed = await answer(site, "My parcel?", model=None, prompt_id=prompt["id"])
    assert said(by_id) == said(by_reference) == said(by_model) == said(unnamed)
    assert {b["prompt_id"] for b in (by_id, by_reference, by_model)} == {prompt["id"]}
    assert by_model["model"] == GIST_MODEL
    stream = await site.post(
        CHAT,
        {
            "model": f"{GIST_MODEL}/routing-v1.0",
            "messages": [user("My parcel?")],
            "temperature": 0,
            "max_tokens": 10,
            "ignore_eos": True,
            "stream": True,
        },
    )
    chunks = sse(stream)
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == said(by_id)
    assert {c["prompt_id"] for c in chunks} == {prompt["id"]}


async def test_named_prompts_are_models(site: Site) -> None:
    prompt = await site.register(messages=[SYSTEM], name="routing")
    await site.register(text="no name")
    cards = (await site.client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == [GIST_MODEL, PLAIN_MODEL, f"{GIST_MODEL}/routing"]
    for card in cards:
        assert {"id", "object", "created", "owned_by", "root", "max_model_len"} <= card.keys()
    response = await site.client.get(f"/v1/models/{GIST_MODEL}/routing")
    assert response.json() == cards[2]
    assert cards[2]["prompt_id"] == prompt["id"]
    assert cards[2]["parent"] == GIST_MODEL
    assert (await site.client.get(f"/v1/models/{GIST_MODEL}")).json() == cards[0]
    for unknown in ("nobody", f"{GIST_MODEL}/other", ""):
        missing = await site.client.get(f"/v1/models/{unknown}", follow_redirects=False)
        assert missing.status_code in (404, 307)


async def test_leading_messages_match_exact_prompts_always(site: Site) -> None:
    prompt = await site.register(messages=[SYSTEM], compression="prefix")
    longer = await site.register(messages=[SYSTEM, user("A")], compression="prefix")

    async def ask(*messages: dict[str, str], **fields: Any) -> dict[str, Any]:
        body = {"model": GIST_MODEL, "messages": messages, "temperature": 0, "max_tokens": 4}
        response = await site.post(CHAT, {**body, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    assert (await ask(SYSTEM, user("B")))["prompt_id"] == prompt["id"]
    # The longest one, also where nothing but the call for an answer follows.
    assert (await ask(SYSTEM, user("A")))["prompt_id"] == longer["id"]
    assert (await ask(SYSTEM, user("A"), user("B")))["prompt_id"] == longer["id"]
    assert "prompt_id" not in await ask(user("A"))
    assert "prompt_id" not in await ask(SYSTEM | {"name": "x"}, user("B"))
    other = await ask(SYSTEM | {"content": SYSTEM["content"] + " "}, user("B"))
    assert "prompt_id" not in other
    assert "prompt_id" not in await ask(SYSTEM, user("B"), model=PLAIN_MODEL)


async def test_leading_messages_match_gists_only_where_that_was_asked_for(site: Site) -> None:
    quiet = {"role": "system", "content": "Not to be matched."}
    await site.register(messages=[quiet], compression="gist")
    matched = await site.register(messages=[SYSTEM], compression="gist", auto_match=True)
    bodies = []
    for message in (quiet, SYSTEM):
        request = {"model": GIST_MODEL, "messages": [message, user("Hi")], "max_tokens": 4}
        bodies.append((await site.post(CHAT, request)).json())
    assert "prompt_id" not in bodies[0]
    assert bodies[0]["usage"]["prompt_tokens_details"]["gist_tokens"] == 0
    assert bodies[1]["prompt_id"] == matched["id"]
    assert bodies[1]["usage"]["prompt_tokens_details"]["gist_tokens"] == GIST_TOKENS + 1
    # An exact cache of the same messages is preferred.
    exact = await site.register(messages=[SYSTEM], compression="prefix")
    request = {"model": GIST_MODEL, "messages": [SYSTEM, user("Hi")], "max_tokens": 4}
    assert (await site.post(CHAT, request)).json()["prompt_id"] == exact["id"]


async def test_text_prompts_go_before_completions(site: Site, gist_loaded: Loaded) -> None:
    prompt = await site.register(text="The capital of France", compression="prefix")
    request = {"model": GIST_MODEL, "temperature": 0, "max_tokens": 8}
    used = await site.post(
        "/v1/completions", {**request, "prompt": " is", "prompt_id": prompt["id"]}
    )
    whole = await site.post("/v1/completions", {**request, "prompt": "The capital of France is"})
    assert used.status_code == 200, used.text
    assert used.json()["choices"] == whole.json()["choices"]
    assert used.json()["prompt_id"] == prompt["id"]
    assert used.json()["usage"]["prompt_tokens"] == whole.json()["usage"]["prompt_tokens"]
    many = await site.post(
        "/v1/completions",
        {**request, "prompt": [" is", " was"], "prompt_id": prompt["id"], "echo": True},
    )
    texts = [choice["text"] for choice in many.json()["choices"]]
    assert texts[0] == " is" + whole.json()["choices"][0]["text"]
    shown = (await site.client.get(f"/v1/prompts/{prompt['id']}")).json()
    assert shown["usage"]["requests"] == 2
    assert shown["usage"]["tokens_saved"] == 3 * prompt["compression"]["prompt_tokens"]


async def test_uses_that_make_no_sense_are_refused(site: Site) -> None:
    text = await site.register(text="Some text", name="text")
    chat = await site.register(messages=[SYSTEM], name="chat")

    async def refused(path: str, status: int, **fields: Any) -> dict[str, Any]:
        content = (
            {"prompt": "x"}
            if path.endswith("/completions") and "chat" not in path
            else {"messages": [user("x")]}
        )
        response = await site.post(path, {"model": GIST_MODEL, **content, **fields})
        assert response.status_code == status, response.text
        return response.json()["error"]

    assert "text" in (await refused(CHAT, 400, prompt_id=text["id"]))["message"]
    assert (await refused(CHAT, 400, model=PLAIN_MODEL, prompt_id=chat["id"]))[
        "param"
    ] == "prompt_id"
    await refused(CHAT, 400, model=f"{GIST_MODEL}/text", prompt_id=chat["id"])
    await refused(CHAT, 400, prompt={"id": text["id"]}, prompt_id=chat["id"])
    await refused("/v1/completions", 400, prompt="", prompt_id=text["id"])
    error = await refused("/v1/completions", 400, prompt_id=text["id"], echo=True, logprobs=1)
    assert error["param"] == "echo"
    await refused("/v1/completions", 404, prompt_id="pmpt_nothing")


async def test_what_follows_a_prompt_must_fit_the_positions(site: Site) -> None:
    prompt = await site.register(messages=[{"role": "system", "content": "x" * 400}])
    response = await site.post(
        CHAT,
        {"model": GIST_MODEL, "prompt_id": prompt["id"], "messages": [user("y" * 120)]},
    )
    # The gist takes few slots, but it stands for over 400 positions.
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_use_is_counted(site: Site) -> None:
    prompt = await site.register(messages=[SYSTEM], name="counted")
    for _ in range(3):
        await answer(site, "Hi", model=f"{GIST_MODEL}/counted")
    site.clock.now += 60
    await answer(site, "Hi", prompt_id=prompt["id"])
    usage = (await site.client.get(f"/v1/prompts/{prompt['id']}")).json()["usage"]
    assert usage == {
        "requests": 4,
        "tokens_saved": 4 * prompt["compression"]["prompt_tokens"],
        "last_used_at": int(site.clock.now),
    }
