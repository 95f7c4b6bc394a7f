"""What requests are drawn."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.lengths import parse_lengths
from gistserve.bench.load.target import Target
from gistserve.bench.load.words import TokensPerWord
from gistserve.bench.load.workload import LoadRequest, Workload
from hypothesis import given
from hypothesis import strategies as st

TWO_A_WORD = TokensPerWord(2.0)


def workload(prompts: int = 0, **more) -> Workload:
    lengths = {"prompt_tokens": "40", "input_tokens": "uniform:4,20", "output_tokens": "normal:9,2"}
    parsed = {name: parse_lengths(form) for name, form in lengths.items()}
    return Workload(num_prompts=prompts, **parsed, **more)


def draw(plan: Workload, count: int, seed: int) -> list[LoadRequest]:
    rng = np.random.default_rng(seed)
    prompts = plan.draw_prompts(TWO_A_WORD, rng)
    return plan.draw_requests(count, prompts, [None] * len(prompts), TWO_A_WORD, rng)


@given(st.integers(0, 6), st.integers(1, 40), st.integers(0, 2**32))
def test_prompts_are_shared_evenly_and_draws_are_repeatable(prompts, count, seed) -> None:
    requests = draw(workload(prompts), count, seed)
    assert requests == draw(workload(prompts), count, seed)
    uses = Counter(request.prompt for request in requests)
    assert len(uses) == (min(prompts, count) or 1)
    assert max(uses.values()) - min(uses.values()) <= 1
    assert all(2 <= len(request.input.split()) <= 10 for request in requests)


def test_texts_have_the_words_that_make_their_tokens() -> None:
    requests = draw(workload(2), 5, 0)
    assert {len(request.prompt.split()) for request in requests} == {20}
    assert len({request.input for request in requests}) == 5


def test_tokens_a_word_come_from_two_counts() -> None:
    # A template's 7 tokens are in both.
    assert TokensPerWord.from_counts((8, 40), (7 + 12, 7 + 60)).ratio == pytest.approx(1.5)


def test_prompts_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "policy.txt"
    path.write_text("Answer für alle.\n", encoding="utf-8")
    (request,) = draw(workload(3, prompt_files=(path,)), 1, 0)
    assert request.prompt == "Answer für alle."


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_useless_prompt_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "policy.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=r"policy\.txt"):
        draw(workload(prompt_files=(path,)), 1, 0)


REQUEST = LoadRequest("Be brief.", None, "Hello", 7)
REGISTERED = LoadRequest("Be brief.", "pmpt_1", "Hello", 7)


def test_bodies_of_chats() -> None:
    target = Target("http://x", "m", Endpoint.chat)
    body = target.body(REQUEST)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert (body["model"], body["max_tokens"], body["ignore_eos"]) == ("m", 7, True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    body = target.body(REGISTERED)
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert body["prompt_id"] == "pmpt_1"


def test_bodies_of_text_completions() -> None:
    target = Target("http://x", "m", Endpoint.completions, ignore_eos=False)
    body = target.body(REQUEST)
    assert body["prompt"] == "Be brief.\nHello"
    assert "ignore_eos" not in body
    assert "prompt_id" not in body
    assert target.body(REGISTERED)["prompt"] == "Hello"
