"""POST /tokenize and /detokenize."""

from typing import Any

import pytest

from .conftest import GIST_MODEL, MAX_MODEL_LEN, Loaded, Site

pytestmark = pytest.mark.anyio


async def post(site: Site, path: str, **body: Any) -> dict[str, Any]:
    response = await site.post(path, body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_text_there_and_back(site: Site, gist_loaded: Loaded) -> None:
    text = "Zwölf Boxkämpfer 🥊"
    found = await post(site, "/tokenize", model=GIST_MODEL, prompt=text, return_token_strs=True)
    expected = gist_loaded.tokenizer.encode(text)
    assert found == {
        "count": len(expected),
        "max_model_len": MAX_MODEL_LEN,
        "tokens": expected,
        "token_strs": gist_loaded.tokenizer.convert_ids_to_tokens(expected),
    }
    assert await post(site, "/detokenize", tokens=expected) == {"prompt": text}
    assert (await post(site, "/tokenize", prompt=""))["tokens"] == []


async def test_a_conversation_reads_as_in_a_chat(site: Site, gist_loaded: Loaded) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for begun in (True, False):
        found = await post(site, "/tokenize", messages=messages, add_generation_prompt=begun)
        assert found["tokens"] == gist_loaded.tokenizer.apply_chat_template(
            messages, add_generation_prompt=begun, return_dict=False
        )
        assert found["token_strs"] is None
    whole = await post(site, "/tokenize", messages=messages)
    assert whole["count"] == (await site.chat("Hi"))["usage"]["prompt_tokens"]
    assert "<|user|>Hi" in (await post(site, "/detokenize", tokens=whole["tokens"]))["prompt"]


async def test_a_prompts_model_counts_the_uncompressed_prompt(site: Site) -> None:
    await site.register(name="short")
    model = f"{GIST_MODEL}/short"
    found = await post(site, "/tokenize", model=model, messages=[{"role": "user", "content": "Hi"}])
    assert found["count"] == (await site.chat("Hi", model=model))["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
    ],
)
async def test_bad_values_are_named(
    site: Site, path: str, body: dict[str, Any], param: str
) -> None:
    response = await site.post(path, body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)
    unknown = await site.post(path, {"model": "nobody", "prompt": "a", "tokens": [1]})
    assert unknown.status_code == 404
