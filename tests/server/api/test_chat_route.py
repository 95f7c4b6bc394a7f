"""POST /v1/chat/completions."""

import pytest

from .conftest import GIST_MODEL, Loaded, Site

pytestmark = pytest.mark.anyio


async def test_greedy_answer_is_that_of_transformers(site: Site, gist_loaded: Loaded) -> None:
    body = await site.chat("What is the time?", max_tokens=12)
    messages = [{"role": "user", "content": "What is the time?"}]
    prompt = gist_loaded.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    expected = gist_loaded.tokenizer.decode(
        gist_loaded.greedy(prompt, 12), skip_special_tokens=True
    )
    choice = body["choices"][0]
    assert choice["message"]["content"] == expected.rstrip("\ufffd")
    assert choice["finish_reason"] == "length"
    assert body["model"] == GIST_MODEL
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 12,
        "total_tokens": len(prompt) + 12,
        "prompt_tokens_details": {"cached_tokens": 0, "gist_tokens": 0},
    }
