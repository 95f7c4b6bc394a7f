"""Calls found in an answer, however it is cut."""

import json
from itertools import pairwise

import numpy as np
import pytest
from gistserve.server.api.tool_calls import JsonObjectEnd, ToolCallParser
from gistserve.server.api.tool_format import HERMES, LLAMA, format_of
from gistserve.server.api.tool_schemas import FunctionSpec
from gistserve.server.engine.grammar import GrammarVocabulary
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken

from ...chat_model import byte_tokenizer

ARGUMENTS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text('a"\\{}[]</tool_call>é', max_size=6),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    ),
    max_size=3,
)


def parse(parser, text, cuts=()):
    """Text and calls [(name, arguments)] of an answer that comes in parts."""
    borders = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    parts = [text[a:b] for a, b in pairwise(borders)]
    shown, calls = "", {}
    for found in [*(parser.add(part) for part in parts), parser.finish()]:
        shown += found.text
        for delta in found.calls:
            if delta.id is not None:
                assert delta.index == len(calls)
                calls[delta.index] = [delta.name, ""]
            calls[delta.index][1] += delta.arguments
    return shown, [tuple(call) for call in calls.values()]


@given(
    calls=st.lists(st.tuples(st.sampled_from(["f", "get_it"]), ARGUMENTS), max_size=3),
    before=st.sampled_from(["", "Let me see. <tool", "a < b\n\n"]),
    swapped=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_hermes_calls_come_whole(calls, before, swapped, cuts):
    written = []
    for name, arguments in calls:
        call = {"name": name, "arguments": arguments}
        if swapped:
            call = {"arguments": arguments, "name": name}
        # Its end mark would end the call, also inside a string, where the keys are swapped.
        text = json.dumps(call).replace("</tool_call>", "<\\/tool_call>")
        written.append(f"<tool_call>\n{text}\n</tool_call>")
    parser = ToolCallParser(HERMES, {"f", "get_it"})
    shown, found = parse(parser, before + "\n".join(written), cuts)
    assert [(name, json.loads(text)) for name, text in found] == calls
    assert shown == (before.rstrip() if calls else before)
    assert parser.num_calls == len(calls)


@given(arguments=ARGUMENTS, mark=st.booleans(), cuts=st.lists(st.integers(0, 200), max_size=9))
def test_a_llama_call_is_the_whole_answer(arguments, mark, cuts):
    text = json.dumps({"name": "f", "parameters": arguments})
    parser = ToolCallParser(LLAMA, {"f"})
    shown, found = parse(parser, "<|python_tag|>" * mark + text, cuts)
    assert (shown, len(found)) == ("", 1)
    assert json.loads(found[0][1]) == arguments


@example(text=' {"a": 1}', cuts=[1])
@example(text=" <|python_tag|> {", cuts=[5, 9])
@given(text=st.text('<tool_call>{"name": "f", x}', max_size=60), cuts=st.lists(st.integers(0, 60)))
def test_text_without_calls_is_shown_whole(text, cuts):
    for form in (HERMES, LLAMA):
        parser = ToolCallParser(form, {"nothing"})
        assert parse(parser, text, cuts) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": 3}\n</tool_call>',
        "<tool_call>\nnot JSON\n</tool_call>",
        '<tool_call>\n{"name": "f", "argu',
    ],
)
def test_what_is_no_call_stays_text(text):
    assert parse(ToolCallParser(HERMES, {"f"}), text, range(0, 60, 3)) == (text, [])


def test_arguments_come_as_they_are_written():
    parser = ToolCallParser(HERMES, {"f"})
    first = parser.add('<tool_call>{"name": "f", "arguments": {"a": "x')
    assert [delta.name for delta in first.calls] == ["f", None]
    assert first.calls[1].arguments == '{"a": "x'
    assert [delta.arguments for delta in parser.add('y"').calls] == ['y"']
    assert [delta.arguments for delta in parser.add("}}\n</tool_call>").calls] == ["}"]


def test_a_call_without_its_end_counts_when_it_is_whole():
    text = '<tool_call>{"arguments": {"a": 1}, "name": "f"}'
    assert parse(ToolCallParser(HERMES, {"f"}), text) == ("", [("f", '{"a": 1}')])


def test_only_the_first_call_counts_where_one_is_wanted():
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse(ToolCallParser(HERMES, {"f"}, parallel=False), call * 2) == ("", [("f", "{}")])


@given(value=ARGUMENTS, cut=st.integers(0, 100))
def test_an_object_ends_where_json_says(value, cut):
    text = json.dumps(value)
    end = JsonObjectEnd()
    cut = min(cut, len(text) - 1)
    assert end.find(text[:cut]) is None
    assert end.find(text[cut:] + ', "more": {}') == len(text) - cut


def test_templates_tell_their_format():
    hermes = '{% if tools %}<tool_call>{"name": , "arguments": }</tool_call>{% endif %}'
    llama = '{% if tools %}Respond as {"name": , "parameters": }.{% endif %}'
    assert format_of(hermes) is HERMES
    assert format_of(llama) is LLAMA
    assert format_of(hermes + "<function=name>") is None
    assert format_of("{{ messages }}") is None


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTIONS = [
    FunctionSpec(name="strict", parameters=CITY, strict=True),
    FunctionSpec(name="loose", parameters=CITY),
]


def accepts(form, text, *, parallel=True, tokens=()):
    """Whether the grammar of a free answer lets this text through, to its end."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in tokens], special_tokens=True)
    vocabulary = GrammarVocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    grammar = form.free_grammar(FUNCTIONS, parallel, tokens.__contains__)
    constraint = vocabulary.lark(grammar).begin()
    for token_id in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]:
        if constraint.is_complete:
            return token_id == tokenizer.eos_token_id
        mask = np.zeros(constraint.num_words, dtype=np.int32)
        constraint.fill(mask)
        if not mask[token_id // 32] >> (token_id % 32) & 1:
            return False
        constraint.accept(token_id)
    return True


def hermes(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize("tokens", [(), HERMES.marks])
@pytest.mark.parametrize("parallel", [True, False])
def test_free_hermes_answers(tokens, parallel):
    oslo, paris = '{"city": "Oslo"}', '{"city": "Paris"}'
    expected = {
        "": True,
        "a < b {\n<tool": True,
        hermes("strict", oslo): True,
        "Let me see.\n" + hermes("strict", oslo): True,
        hermes("strict", oslo) + "\n" + hermes("loose", paris): parallel,
        hermes("strict", oslo) + " There.": parallel,
        hermes("strict", paris): False,
        hermes("loose", paris): True,
        hermes("loose", "[1]"): False,
        hermes("other", oslo): False,
        "a <tool_call> b": False,
    }
    found = {text: accepts(HERMES, text, parallel=parallel, tokens=tokens) for text in expected}
    assert found == expected


@pytest.mark.parametrize("tokens", [(), LLAMA.marks])
def test_free_llama_answers(tokens):
    call = '{"name": "strict", "parameters": {"city": "Oslo"}}'
    expected = {
        "": True,
        "Hi {": True,
        '{"answer": 4}': True,
        call: True,
        "<|python_tag|>" + call: True,
        call + " x": False,
        call.replace("Oslo", "Paris"): False,
        call.replace("Oslo", "Paris").replace("strict", "loose"): True,
        call.replace(" ", "").replace("Oslo", "Paris"): False,
        "\n" + call.replace("Oslo", "Paris"): False,
        '{"parameters": {"city": "Paris"}, "name": "strict"}': False,
    }
    assert {text: accepts(LLAMA, text, tokens=tokens) for text in expected} == expected
