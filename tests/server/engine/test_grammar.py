"""Output kept to a grammar, beside requests that have none."""

import json

import jsonschema
import numpy as np
import pytest
import torch
from gistserve.server.engine.engine import Engine, EngineConfig
from gistserve.server.engine.grammar import GrammarError, GrammarVocabulary
from gistserve.server.engine.request import Request, SamplingParams
from gistserve.server.engine.sequence import Sequence
from gistserve.server.engine.token_mask import TokenMask
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from ...chat_model import byte_tokenizer
from .test_engine import Inbox, all_blocks_free, tokens_of, wait_until

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id
SIZE = len(TOKENIZER)
VOCABULARY = GrammarVocabulary(TOKENIZER, SIZE, [END])

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "bb"]}, "maxItems": 2},
        "inner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/flag"}]},
    },
    "required": ["name", "age", "tags", "inner"],
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config).eval()


def ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def text_of(outputs):
    return TOKENIZER.decode(tokens_of(outputs), skip_special_tokens=True)


def run_all(model, requests, **config):
    engine = Engine(model, EngineConfig(**{"num_blocks": 256, "block_size": 4, **config}))
    engine.start()
    try:
        inbox = Inbox()
        for request in requests:
            engine.submit(request, inbox)
        outputs = inbox.until_finished(len(requests))
        wait_until(lambda: all_blocks_free(engine))
        return outputs, engine.stats()
    finally:
        engine.shutdown()


def people(grammar, count=6, **sampling):
    return [
        Request(
            f"g{i}",
            ids(f"Person {i}:"),
            SamplingParams(**{"temperature": 1.5, "seed": i, "max_tokens": 300, **sampling}),
            grammar=grammar,
        )
        for i in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.text("ab\u00e9 ", max_size=4), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_masks_allow_just_what_leads_to_a_text_of_the_grammar(members, data):
    texts = [json.dumps(member, ensure_ascii=False).encode() for member in members]
    constraint = VOCABULARY.json_schema({"enum": members}).begin()
    chosen = data.draw(st.sampled_from(texts))
    prefix = chosen[: data.draw(st.integers(0, len(chosen)))]
    for byte in prefix:
        constraint.accept(_token_of(byte))
    mask = np.zeros(constraint.num_words, dtype=np.int32)
    constraint.fill(mask)
    following = {_token_of(t[len(prefix)]) for t in texts if t.startswith(prefix) and t != prefix}
    expected = following | ({END} if prefix in texts else set())
    found = {t for t in range(SIZE) if mask[t // 32] >> (t % 32) & 1}
    assert found == expected
    assert constraint.is_complete == (prefix in texts and not following)


def _token_of(byte):
    """The byte tokenizer has a token a byte, named by GPT-2's alphabet of bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    name = chr(byte) if byte in printable else chr(256 + others.index(byte))
    return TOKENIZER.convert_tokens_to_ids(name)


@pytest.mark.parametrize("extra", [-5, 0, 40])
def test_only_the_rows_of_a_grammar_are_masked(extra):
    """Also where the model has fewer or more rows of logits than the tokenizer has tokens."""
    grammar = VOCABULARY.json_schema({"enum": [7]})
    plain = Sequence(Request("p", [1]), 9)
    kept = Sequence(Request("k", [1], grammar=grammar), 9)
    logits = torch.randn(3, SIZE + extra)
    masked = logits.clone()
    TokenMask.build([plain, kept, plain], torch.device("cpu")).apply(masked)
    assert TokenMask.build([plain, plain], torch.device("cpu")) is None
    assert torch.equal(masked[[0, 2]], logits[[0, 2]])
    seven = ids("7")[0]
    assert masked[1].isfinite().nonzero().flatten().tolist() == [seven]
    assert masked[1, seven] == logits[1, seven]


def test_every_answer_is_json_of_the_schema(model):
    outputs, _ = run_all(model, people(VOCABULARY.json_schema(PERSON)))
    texts = {text_of(found) for found in outputs.values()}
    assert len(texts) == 6
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert {found[-1].finish_reason for found in outputs.values()} == {"stop"}


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0}, {"top_k": 3}, {"top_p": 0.5, "logprobs": 2}, {"min_tokens": 299}],
)
def test_it_goes_with_all_ways_to_draw(model, sampling):
    grammar = VOCABULARY.json_schema(PERSON)
    outputs, _ = run_all(model, people(grammar, 2, ignore_eos=True, **sampling))
    for found in outputs.values():
        jsonschema.validate(json.loads(text_of(found)), PERSON)
        assert found[-1].finish_reason == "stop"
    if "logprobs" in sampling:  # of the unmodified distribution, which knows no grammar
        assert max(p.logprob for o in outputs["g0"] for p in o.logprobs) < 0


def test_a_limit_cuts_it_short(model):
    outputs, _ = run_all(model, people(VOCABULARY.json_schema(PERSON), 1, max_tokens=4))
    assert outputs["g0"][-1].finish_reason == "length"
    assert len(tokens_of(outputs["g0"])) == 4


def test_requests_beside_it_get_the_tokens_they_get_alone(model):
    others = [
        Request(f"o{i}", ids(f"Other {i}"), SamplingParams(temperature=t, seed=i, max_tokens=40))
        for i, t in enumerate((0, 0, 1.0, 1.0))
    ]
    alone, _ = run_all(model, others)
    grammar = VOCABULARY.json_schema(PERSON)
    beside, _ = run_all(model, [*people(grammar), *others])
    for other in others:
        assert tokens_of(beside[other.request_id]) == tokens_of(alone[other.request_id])
    kept_alone, _ = run_all(model, people(grammar))
    assert all(tokens_of(beside[i]) == tokens_of(kept_alone[i]) for i in kept_alone)


def test_a_preemption_changes_nothing(model):
    requests = people(VOCABULARY.json_schema(PERSON), seed=None, temperature=0)
    roomy, stats = run_all(model, requests)
    assert stats.num_preemptions == 0
    tight, stats = run_all(model, requests, num_blocks=40, enable_prefix_caching=False)
    assert stats.num_preemptions > 0
    for name, found in roomy.items():
        assert tokens_of(tight[name]) == tokens_of(found)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objct"}, "objct"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "nsatisfiable"),
        ({"type": "object", "properties": {"a": 5}}, "object or boolean"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"enum": [float("nan")]}, "finite"),
    ],
)
def test_schemas_that_cannot_be_used_say_why(schema, reason):
    with pytest.raises(GrammarError, match=reason):
        VOCABULARY.json_schema(schema)
    with pytest.raises(GrammarError):
        VOCABULARY.lark("start: nowhere")


def test_a_grammar_that_breaks_ends_its_request_only(model):
    grammar = VOCABULARY.json_schema(PERSON)

    class Broken:
        def begin(self):
            constraint = grammar.begin()
            constraint.accept(ids("x")[0])  # not allowed
            return constraint

    sampling = SamplingParams(temperature=0, max_tokens=5)
    other = Request("other", ids("Hello"), sampling)
    outputs, _ = run_all(model, [Request("broken", ids("a"), sampling, grammar=Broken()), other])
    assert outputs["broken"][-1].finish_reason == "error"
    assert "grammar" in outputs["broken"][-1].error
    assert len(tokens_of(outputs["other"])) == 5
