"""Bad sampling parameters are refused where they enter, by name."""

import math

import pytest
from gistserve.server.engine.request import Request, SamplingParams, SamplingParamsError


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("top_k", 2**31),
        ("min_p", 1.5),
        ("seed", 2**64),
        ("seed", 0.5),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", 3),
        ("min_tokens", -1),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("logit_bias", {1: 101}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {"1": 1.0}),
        ("logit_bias", [1]),
    ],
)
def test_a_bad_value_is_refused_by_name(param, value):
    with pytest.raises(SamplingParamsError, match=param) as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param


def test_min_tokens_may_not_exceed_max_tokens():
    with pytest.raises(SamplingParamsError, match="min_tokens exceeds max_tokens: 3 > 2"):
        SamplingParams(max_tokens=2, min_tokens=3)


def test_extreme_values_that_mean_something_are_taken():
    params = SamplingParams(max_tokens=0, top_k=-1, seed=-(2**63), logprobs=0, temperature=0)
    assert params.is_greedy and not params.has_penalties


def test_a_request_needs_an_id_and_a_token():
    with pytest.raises(ValueError, match="request_id"):
        Request("", [1])
    with pytest.raises(ValueError, match="token_ids"):
        Request("a", [])
