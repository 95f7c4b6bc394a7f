"""The embedded model's tokenizer takes any text, and keeps a policy a prefix of its chats."""

import pytest
from gistserve.training.demo.tokenizer import train_tokenizer
from gistserve.training.demo.wording import AGENTS, IMPLIED_MESSAGES, TEAMS
from hypothesis import given
from hypothesis import strategies as st

TOKENIZER = train_tokenizer(0, policies=1500)


@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("word", [*TEAMS, *AGENTS, *IMPLIED_MESSAGES])
def test_names_that_are_looked_up_are_one_token(word: str) -> None:
    assert len(TOKENIZER(f" {word}").input_ids) == 1


@given(system=st.text(), user=st.text())
def test_leading_messages_are_a_token_prefix_of_the_chat(system: str, user: str) -> None:
    def ids(messages: list[dict[str, str]], prompt: bool) -> list[int]:
        text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return list(TOKENIZER(text, add_special_tokens=False).input_ids)

    leading = [{"role": "system", "content": system}]
    whole = ids([*leading, {"role": "user", "content": user}], True)
    head = ids(leading, False)
    assert whole[: len(head)] == head


def test_training_is_reproducible() -> None:
    again = train_tokenizer(0, policies=1500)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
