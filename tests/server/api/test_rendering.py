"""Registered messages must be a token prefix of what the template makes of longer chats."""

import threading
from typing import Any

import pytest
from gistserve.server.api.errors import ApiError
from gistserve.server.api.rendering import Renderer
from gistserve.server.api.served_models import ServedModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ...chat_model import CHAT_TEMPLATE, byte_tokenizer

pytestmark = pytest.mark.anyio

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi"}

# Llama-2's manner: the system text goes into the first user turn, so it is no prefix alone.
FOLDING = (
    "{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] + ' ' %}"
    "{% set turns = messages[1:] %}{% else %}{% set lead = '' %}{% set turns = messages %}"
    "{% endif %}^{% for m in turns %}[{{ (lead if loop.first else '') + m['content'] }}]"
    "{% endfor %}"
)
# The number of turns stands in front.
COUNTING = "{{ messages|length }}:{% for m in messages %}{{ m['content'] }};{% endfor %}"
# Users and assistants must take turns.
ALTERNATING = (
    "{% for m in messages %}{% if loop.index0 and m['role'] == messages[loop.index0 - 1]['role'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
)
# Nothing stands between two turns, so a tokenizer may merge across the border.
SEAMLESS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def renderer(
    template: str | None, tokenizer: PreTrainedTokenizerFast | None = None, **more: Any
) -> Renderer:
    tokenizer = tokenizer or byte_tokenizer()
    tokenizer.chat_template = template
    model = ServedModel("m", None, tokenizer, "f", 100)  # type: ignore[arg-type]
    return Renderer(model, **{"threaded_chars": 2000, **more})


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Merges "." with the letter "a" behind it."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), ".a"]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [(".", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


async def test_a_prefix_is_a_prefix_of_the_whole() -> None:
    rendering = renderer(CHAT_TEMPLATE)
    for messages in ([SYSTEM], [SYSTEM, USER], [SYSTEM, USER, USER | {"role": "assistant"}]):
        registered = await rendering.registered_chat(messages)
        whole = await rendering.chat([*messages, USER], generation_prompt=True)
        assert whole[: len(registered)] == registered
        assert len(whole) > len(registered)


@pytest.mark.parametrize("template", [FOLDING, COUNTING])
async def test_templates_that_rewrite_the_beginning_are_refused(template: str) -> None:
    with pytest.raises(ApiError) as refused:
        await renderer(template).registered_chat([SYSTEM])
    assert refused.value.status_code == 400
    assert refused.value.code == "template_not_prefix"
    assert "token prefix" in str(refused.value)


async def test_tokens_that_merge_over_the_border_are_refused() -> None:
    with pytest.raises(ApiError, match="token prefix"):
        await renderer(SEAMLESS, merging_tokenizer()).registered_chat([SYSTEM])
    assert await renderer(SEAMLESS).registered_chat([SYSTEM])  # one token a byte: no merges


async def test_turns_that_must_alternate_can_still_be_registered() -> None:
    rendering = renderer(ALTERNATING)
    assert await rendering.registered_chat([SYSTEM, USER])
    with pytest.raises(ApiError, match="roles must alternate"):
        await rendering.registered_chat([USER, USER])


async def test_a_model_without_a_template_says_so() -> None:
    for call in (
        renderer(None).registered_chat([SYSTEM]),
        renderer(None).chat([USER], generation_prompt=True),
    ):
        with pytest.raises(ApiError, match="no chat template") as refused:
            await call
        assert refused.value.status_code == 400


async def test_long_texts_are_tokenised_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendering = renderer(CHAT_TEMPLATE, threaded_chars=50)
    threads: list[threading.Thread] = []
    encode = rendering.tokenizer.encode

    def watched(*args: Any, **more: Any) -> list[int]:
        threads.append(threading.current_thread())
        return encode(*args, **more)

    monkeypatch.setattr(rendering.tokenizer, "encode", watched)
    short = await rendering.text("x" * 49, special_tokens=True)
    long = await rendering.text("x" * 50, special_tokens=True)
    await rendering.chat([{"role": "user", "content": "y" * 60}], generation_prompt=True)
    assert len(long) == len(short) + 1
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [True, False, False]
