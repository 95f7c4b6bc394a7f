"""Prompts and responses: templates, special tokens, limits, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from gistserve.training.config import ConfigError
from gistserve.training.minillm.data import distinct_prompts, read_pairs
from gistserve.training.minillm.template import PromptTemplate
from gistserve.training.records import DataError
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .tiny_run import make_tokenizer, records, settings, write_jsonl


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Characters; puts <s> in front, and drops a text's first space when it decodes, as Llama's."""
    characters = [chr(code) for code in range(33, 127)]
    tokens = ["<s>", "</s>", "<unk>", "▁", "\n", *characters]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def read(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    config = settings(tmp_path, tmp_path, **changes)
    tokenizer = changes.pop("tokenizer", None) or make_tokenizer()
    place = write_jsonl(tmp_path / "data.jsonl", rows)
    return read_pairs(str(place), config, PromptTemplate(config.prompt_template, tokenizer))


def test_plain_pairs(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    [first, *_] = read(tmp_path, records())
    assert tokenizer.decode(first.prompt_ids) == "my cat is red ."
    assert tokenizer.decode(first.response_ids) == " a red cat .<end>"
    assert (first.prompt, first.response) == ("my cat is red .", " a red cat .")


def test_fields_can_be_renamed(tmp_path: Path) -> None:
    rows = [{"q": row["prompt"], "a": row["response"]} for row in records()]
    named = read(tmp_path, rows, prompt_field="q", response_field="a")
    assert named == read(tmp_path, records())


@given(st.text("abc XY.\n", min_size=1), st.text("abc XY.", min_size=1))
def test_texts_come_back_behind_their_prompt(prompt: str, response: str) -> None:
    template = PromptTemplate("plain", metaspace_tokenizer())
    prompt_ids, response_ids = template.encode(prompt, response)
    assert prompt_ids[0] == 0 and response_ids[-1] == 1
    assert 0 not in prompt_ids[1:] + response_ids and 1 not in prompt_ids + response_ids[:-1]
    assert template.decode(prompt_ids, response_ids) == response


def test_the_instruction_template_is_the_paper_s(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say hello.", "input": "", "output": "Hello!"},
        {"instruction": "Add.", "context": "1 and 2", "response": "3"},
    ]
    config = settings(tmp_path, tmp_path, prompt_template="instruction", max_prompt_tokens=500)
    template = PromptTemplate("instruction", metaspace_tokenizer())
    place = write_jsonl(tmp_path / "data.jsonl", rows)
    first, second = read_pairs(str(place), config, template)
    head = (
        "Below is an instruction that describes a task.\nWrite a response that appropriately "
        "completes the request.\n\n### Instruction:\n"
    )
    assert first.prompt == head + "Say hello.\n\n### Response:\n"
    assert second.prompt == head + "Add.\n\n### Input:\n1 and 2\n\n### Response:\n"
    assert second.response == "3"


@pytest.mark.parametrize("make", [metaspace_tokenizer, make_tokenizer])
def test_the_written_chat_template_asks_as_in_training(make: Any) -> None:
    tokenizer = make()
    template = PromptTemplate("instruction", tokenizer)
    trained = template.prompt_ids(template.instruction("Say hello."))
    tokenizer.chat_template = template.chat_template()
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say hello."}], add_generation_prompt=True, return_dict=False
    )
    assert asked == trained
    with pytest.raises(Exception, match="single user message"):
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        )


def test_a_chat_template_of_its_own_is_used(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}my {{ m.content }} .{% endfor %}"
    template = PromptTemplate("chat", tokenizer)
    prompt_ids, response_ids = template.encode("cat", " red")
    assert tokenizer.decode(prompt_ids) == "my cat ."
    assert tokenizer.decode(response_ids) == " red<end>"
    assert template.chat_template() == tokenizer.chat_template
    with pytest.raises(ConfigError, match="no chat template"):
        PromptTemplate("chat", make_tokenizer())


def test_pairs_over_the_limits_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*records(), {"prompt": "my cat", "response": " red" * 8}]
    assert len(read(tmp_path, rows)) == len(records())  # 8 tokens and the end are 9
    assert "1 of 13 examples" in caplog.text
    with pytest.raises(DataError, match="all 13 examples are over"):
        read(tmp_path, rows, max_prompt_tokens=1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "my cat"}, "the field response is missing; there are prompt"),
        ({"prompt": "my cat", "response": "  "}, "response must be text"),
        ({"prompt": 3, "response": "a"}, "prompt must be text, got 3"),
        ({"instruction": "a", "output": "b"}, "set prompt_template: instruction"),
    ],
)
def test_wrong_fields_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, [records()[0], row])
    assert "data.jsonl:2" in str(error.value)


def test_empty_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no example"):
        read(tmp_path, [])


def test_each_prompt_is_asked_once(tmp_path: Path) -> None:
    rows = [*records(), {"prompt": records()[0]["prompt"], "response": " a hat ."}]
    pairs = read(tmp_path, rows)
    assert distinct_prompts(pairs) == [pair.prompt_ids for pair in pairs[:-1]]
