"""The sampler against transformers' logits processors, and its independence of the batch."""

import math

import pytest
import torch
from gistserve.server.engine import sampler as sampler_module
from gistserve.server.engine.request import Request, SamplingParams
from gistserve.server.engine.sampler import Sampler, draw
from gistserve.server.engine.sampling_filter import SamplingFilter
from gistserve.server.engine.scheduler import INVALID_TOKEN
from gistserve.server.engine.sequence import Sequence
from gistserve.server.engine.token_counts import TokenCounts
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 50


def seq(tokens=(1,), output=(), **sampling):
    sequence = Sequence(Request("r", list(tokens), SamplingParams(**sampling)), 100, frozenset({2}))
    sequence.token_ids += output
    return sequence


def random_logits(rows, vocab=VOCAB, seed=0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def sample_many(sampler, logits, sequences, steps):
    """Tokens [steps][R], each appended to its sequence."""
    drawn = []
    for _ in range(steps):
        tokens = sampler.sample(logits, sequences).token_ids
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.token_ids.append(token)
        drawn.append(tokens)
    return drawn


def test_greedy_takes_the_most_likely_token_of_each_row():
    logits = random_logits(5)
    sequences = [seq(temperature=0), seq(temperature=1e-6), *[seq(temperature=0)] * 3]
    assert Sampler().sample(logits, sequences).token_ids == logits.argmax(-1).tolist()


def test_greedy_rows_stay_greedy_beside_random_ones():
    logits = random_logits(4)
    sequences = [seq(temperature=t) for t in (0, 5.0, 0, 5.0)]
    sampler = Sampler()
    drawn = sample_many(sampler, logits, sequences, 30)
    best = logits.argmax(-1).tolist()
    assert all((row[0], row[2]) == (best[0], best[2]) for row in drawn)
    assert len({row[1] for row in drawn}) > 5 and len({row[3] for row in drawn}) > 5


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 500},
        {"top_p": 0.01},
        {"top_p": 0.6},
        {"min_p": 0.05},
        {"top_k": 9, "top_p": 0.7},
        {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "temperature": 1.7},
    ],
    ids=str,
)
def test_filters_equal_transformers(sampling):
    logits = random_logits(20)
    params = SamplingParams(**sampling)
    steps = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(MinPLogitsWarper(params.min_p))
    expected = steps(torch.zeros(20, 1, dtype=torch.long), logits.clone()).softmax(-1)
    # A batch in which only every other row is filtered.
    rows = [params if row % 2 else SamplingParams() for row in range(20)]
    found = SamplingFilter.build(rows, torch.device("cpu")).apply(logits / params.temperature)
    found = found / found.sum(-1, keepdim=True)
    torch.testing.assert_close(found[1::2], expected[1::2])
    whole = (logits / params.temperature).softmax(-1)
    torch.testing.assert_close(found[0::2], whole[0::2])


def test_nucleus_of_a_large_flat_vocabulary_is_found_beyond_the_first_candidates():
    logits = torch.zeros(2, 5000)
    logits += torch.arange(5000) * 1e-4  # no ties
    rows = [SamplingParams(top_p=0.5), SamplingParams(top_p=0.01)]
    kept = SamplingFilter.build(rows, torch.device("cpu")).apply(logits) > 0
    probs = logits.softmax(-1).double()
    for row, params in enumerate(rows):
        mass = probs[row][kept[row]].sum()
        assert params.top_p <= mass < params.top_p + 2 * probs[row].max()


@pytest.mark.parametrize("num_candidates", [5, 20, VOCAB])
def test_nuclei_among_few_candidates_are_exact_or_known_not_to_be(num_candidates):
    logits = random_logits(6)
    rows = [SamplingParams(top_p=p, top_k=40) for p in (0.3, 0.8, 0.99, 0.5, 0.9, 0.6)]
    whole = SamplingFilter.build(rows, torch.device("cpu"))
    alone = [SamplingFilter.build([row], torch.device("cpu")) for row in rows]
    expected = whole.apply(logits)
    exact = []
    for row, one in enumerate(alone):
        probs, found = one.apply_among(logits[row : row + 1], num_candidates)
        assert bool(found) or num_candidates < VOCAB
        exact.append(bool(found))
        if found:
            torch.testing.assert_close(probs[0], expected[row], rtol=0, atol=0)
    assert any(exact) and (all(exact) or num_candidates < VOCAB)
    assert bool(whole.apply_among(logits, num_candidates)[1]) == all(exact)


@pytest.mark.parametrize("sizes", [[VOCAB], [3, VOCAB], [3, 20, VOCAB]])
def test_tokens_drawn_as_on_a_device_are_the_same(sizes, monkeypatch):
    """Candidates are too few for some steps, which are drawn again by the same numbers."""
    params = [{"top_p": 0.9}, {"top_p": 0.2, "seed": 4}, {}, {"temperature": 0, "logprobs": 2}]
    params += [{"top_p": 0.7, "presence_penalty": 1.5, "logprobs": 1}]
    draws = []
    for attempts in (None, sizes):
        if attempts:
            monkeypatch.setattr(sampler_module, "_attempts", lambda logits: sizes)
        sampler, sequences = Sampler(seed=3), [seq(**p) for p in params]
        drawn = []
        for step in range(20):
            logits = random_logits(len(params), seed=step) / (1 + step % 3)
            sampled = sampler.sample(logits, sequences)
            drawn.append((sampled.token_ids, sampled.logprobs))
            for sequence, token in zip(sequences, sampled.token_ids, strict=True):
                sequence.token_ids.append(token)
        draws.append(drawn)
    assert draws[0] == draws[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_best_tokens_as_on_a_device(bad):
    logits = random_logits(4).bfloat16()
    logits[2] = bad
    expected = logits.argmax(-1).tolist()
    expected[2] = INVALID_TOKEN
    assert sampler_module._best(logits) == sampler_module._best_on_cpu(logits) == expected


def test_repetition_penalty_equals_transformers():
    logits = random_logits(3)
    prompt, output = [4, 9], [9, 11, 4, 30]
    sequences = [seq(prompt, output, temperature=0, repetition_penalty=p) for p in (1.5, 1.0, 0.7)]
    found = logits.clone()
    TokenCounts.build(sequences, VOCAB, logits.device).penalize(found)
    for row, penalty in enumerate((1.5, 1.0, 0.7)):
        processor = RepetitionPenaltyLogitsProcessor(penalty)
        ids = torch.tensor([prompt + output])
        expected = processor(ids, logits[row : row + 1].clone())[0]
        torch.testing.assert_close(found[row], expected)


def test_frequency_and_presence_count_output_tokens_only():
    logits = torch.zeros(1, VOCAB)
    logits[0, 7], logits[0, 8] = 1.0, 0.9
    sequence = seq([7, 7, 7], frequency_penalty=0.3, presence_penalty=0.2, temperature=0)
    drawn = [row[0] for row in sample_many(Sampler(), logits, [sequence], 7)]
    # 7: 1.0, then 0.5, 0.2, -0.1 ...; 8: 0.9, then 0.4, 0.1, -0.2 ...; others start at 0.
    assert drawn[:6] == [7, 8, 7, 8, 7, 8]
    assert drawn[6] not in (7, 8)


def test_counts_survive_a_change_of_the_batch():
    logits = torch.zeros(1, VOCAB)
    logits[0, :4] = torch.tensor([2.0, 1.8, 1.6, 1.4])
    sequence = seq([1], temperature=0, presence_penalty=2.0)
    other = seq([1], temperature=0)
    sampler = Sampler()
    drawn = []
    for step in range(4):
        batch = [sequence] if step % 2 else [other, sequence]
        token = sampler.sample(logits.expand(len(batch), -1), batch).token_ids[-1]
        sequence.token_ids.append(token)
        drawn.append(token)
    assert drawn == [0, 1, 2, 3]


def test_logit_bias_and_min_tokens():
    logits = torch.zeros(2, VOCAB)
    logits[:, 2] = 5.0  # the end token
    logits[:, 3] = 4.0
    biased = seq(temperature=0, logit_bias={9: 6.0, 2: -1.5})
    waiting = seq(temperature=0, min_tokens=2, stop_token_ids=(3,))
    drawn = sample_many(Sampler(), logits, [biased, waiting], 3)
    assert [row[0] for row in drawn] == [9, 9, 9]
    assert drawn[0][1] not in (2, 3) and drawn[1][1] not in (2, 3)
    assert drawn[2][1] == 2
    assert logits[0, 9] == 0.0, "the caller's logits were changed"


SEEDED = [
    {"seed": 11},
    {"seed": 12, "top_p": 0.8},
    {"seed": 13, "top_k": 5},
    {"seed": 14, "min_p": 0.02, "temperature": 2.0},
    {"seed": 15, "presence_penalty": 1.0, "logit_bias": {3: 2.0}},
]


@pytest.mark.parametrize("sampling", SEEDED, ids=str)
def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(sampling):
    logits = random_logits(12, seed=3) / 3
    sampler = Sampler(seed=1)
    alone = [row[0] for row in sample_many(sampler, logits[4:5], [seq(**sampling)], 40)]
    assert len(set(alone)) > 3
    mine = seq(**sampling)
    crowd = [seq(**p) for p in [*SEEDED, {}, {"temperature": 0}, {"top_p": 0.3}]]
    drawn = []
    for step in range(40):  # other neighbours and another row at each step
        neighbours = crowd[: 1 + step % len(crowd)]
        place = step % (len(neighbours) + 1)
        batch = [*neighbours[:place], mine, *neighbours[place:]]
        rows = torch.cat([logits[:place], logits[4:5], logits[5 : 5 + len(batch) - place - 1]])
        token = sampler.sample(rows, batch).token_ids[place]
        mine.token_ids.append(token)
        drawn.append(token)
    assert drawn == alone


def test_without_seed_requests_differ_and_engines_repeat():
    logits = (random_logits(1) / 3).expand(3, -1)

    def run(seed):
        return sample_many(Sampler(seed), logits, [seq() for _ in range(3)], 30)

    first = run(5)
    columns = list(zip(*first, strict=True))
    assert len(set(columns)) == 3
    assert run(5) == first and run(6) != first


def test_draw_follows_the_probabilities():
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.2, 0.3, 0.0]])
    count = 20_000
    uniforms = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = draw(probs.expand(count, -1), uniforms)
    observed = torch.bincount(tokens, minlength=6).double()
    assert observed[[0, 2, 5]].sum() == 0
    expected = torch.tensor([0.5, 0.2, 0.3]).double() * count
    chi_square = ((observed[[1, 3, 4]] - expected) ** 2 / expected).sum()
    assert chi_square < 13.8  # p = 0.001 at 2 degrees of freedom


def test_draw_at_the_ends_of_the_interval_takes_possible_tokens():
    probs = torch.tensor([[0.0, 0.4, 0.1, 0.0]])
    below_one = math.nextafter(1.0, 0.0)
    assert draw(probs, torch.tensor([0.0], dtype=torch.float64)).item() == 1
    assert draw(probs, torch.tensor([below_one], dtype=torch.float64)).item() == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_row_that_is_not_finite_spoils_no_other(bad, temperature):
    logits = random_logits(3)
    logits[1, 5] = bad
    sequences = [seq(temperature=temperature, logprobs=1) for _ in range(3)]
    tokens = Sampler().sample(logits, sequences).token_ids
    assert tokens[1] == INVALID_TOKEN
    assert all(0 <= tokens[row] < VOCAB for row in (0, 2))


def test_logprobs_are_those_of_the_unmodified_distribution():
    logits = random_logits(3).bfloat16()
    sequences = [
        seq(temperature=3.0, logprobs=4, logit_bias={5: 3.0}, top_k=3),
        seq(temperature=0),
        seq(temperature=0, logprobs=0, repetition_penalty=2.0),
    ]
    sampled = Sampler().sample(logits, sequences)
    expected = logits.float().log_softmax(-1)
    first, second, third = sampled.logprobs
    assert second is None
    assert first.token_id == sampled.token_ids[0]
    assert first.logprob == pytest.approx(expected[0, first.token_id].item(), abs=1e-6)
    values, indices = expected[0].topk(4)
    assert [t for t, _ in first.top] == indices.tolist()
    assert [p for _, p in first.top] == pytest.approx(values.tolist(), abs=1e-6)
    assert third.top == ()
    assert third.logprob == pytest.approx(expected[2, third.token_id].item(), abs=1e-6)
