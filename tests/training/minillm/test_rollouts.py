"""Rollouts: what is trained of them, and what must not matter."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gistserve.training.minillm.loss import MiniLLMLoss, ObjectiveSettings
from gistserve.training.minillm.rollouts import (
    ModelPair,
    Rollouts,
    RolloutSettings,
    sample_rollouts,
    score_rollouts,
)
from gistserve.training.minillm.split_model import SplitModel

from .tiny_pairs import END, gradients, settings, tiny_gpt2, tiny_llama, tiny_pair

PROMPTS = [[0, 2], [1], [2, 2, 1]]
RESPONSES = [[0, 1, 2], [1, END], [END]]


def learn(pair: ModelPair, rollouts: Rollouts) -> tuple[float, dict[str, torch.Tensor]]:
    loss = MiniLLMLoss(pair, ObjectiveSettings())(rollouts, 1.0, None, 0)["loss"]
    loss.backward()
    return float(loss.detach()), gradients(pair.student.model)


def check_same_learning(pair: ModelPair, ours: Rollouts, theirs: Rollouts) -> None:
    (loss, grads), (other, others) = learn(pair, ours), learn(pair, theirs)
    assert loss == pytest.approx(other, rel=1e-12) and loss != 0
    torch.testing.assert_close(grads, others, atol=1e-12, rtol=1e-10)


def test_what_is_known_of_the_tokens() -> None:
    """Against the models' own logits, row by row."""
    pair = tiny_pair()
    rollouts = score_rollouts(pair, PROMPTS, RESPONSES, settings(0.2))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        start, end = len(prompt), len(prompt) + len(response)
        assert rollouts.mask[row].nonzero().flatten().tolist() == list(range(start, end))
        assert rollouts.input_ids[row, :end].tolist() == prompt + response
        ids = torch.tensor([prompt + response])
        q, p = (
            split.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            for split in (pair.student, pair.teacher)
        )
        q, p = q[start - 1 :].detach(), p[start - 1 :].detach()
        torch.testing.assert_close(rollouts.log_probs[row, start:end], q)
        torch.testing.assert_close(rollouts.rewards[row, start:end], p - q)
        expected = q.exp() / (0.2 * p.exp() + 0.8 * q.exp())
        torch.testing.assert_close(rollouts.weights[row, start:end], expected)
        for values in (rollouts.log_probs, rollouts.rewards, rollouts.weights):
            assert not values[row][~rollouts.mask[row]].any()


def test_nothing_behind_the_end_token_counts() -> None:
    pair = tiny_pair()
    longer = [[0, 1, 2], [1, END, 2, 0, END, 1], [END, END, 0]]
    ours, theirs = (
        score_rollouts(pair, PROMPTS, responses, settings()) for responses in (RESPONSES, longer)
    )
    assert ours.tokens == theirs.tokens == 6
    check_same_learning(pair, ours, theirs)


def test_padding_does_not_count() -> None:
    """Neither its width, nor its token, nor what tensors hold there."""
    pair = tiny_pair()
    ours = score_rollouts(pair, PROMPTS, RESPONSES, settings())
    wide = score_rollouts(pair, [*PROMPTS, [1] * 9], [*RESPONSES, [0, 0]], settings(pad_id=1))
    theirs = Rollouts(*(part[:3] for part in vars(wide).values()))
    assert theirs.input_ids.shape[1] == 11 and ours.input_ids.shape[1] == 5
    check_same_learning(pair, ours, theirs)
    for values in (theirs.log_probs, theirs.rewards, theirs.weights):
        values[~theirs.mask] = torch.nan
    check_same_learning(pair, ours, theirs)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_first_end_token_is_learned_where_it_is_the_padding_too(make: Any) -> None:
    pair = tiny_pair(make)
    same, other = (
        score_rollouts(pair, PROMPTS, RESPONSES, settings(pad_id=pad)) for pad in (END, 0)
    )
    assert same.mask.sum(1).tolist() == [3, 2, 1]
    assert same.input_ids[same.mask].tolist() == [0, 1, 2, 1, END, END]
    loss, _ = learn(pair, same)
    assert loss == pytest.approx(learn(pair, other)[0], rel=1e-6)
    alone, _ = learn(pair, score_rollouts(pair, PROMPTS[:2], RESPONSES[:2], settings()))
    assert loss != pytest.approx(alone), "the response that is only an end token has no loss"


def test_rows_of_rollouts_are_learned_as_the_whole() -> None:
    pair = tiny_pair()
    rollouts = score_rollouts(pair, PROMPTS, RESPONSES, settings())
    whole, grads = learn(pair, rollouts)
    parts = [rollouts.rows(rows) for rows in ([2], [1, 0])]
    assert [part.input_ids.shape[1] for part in parts] == [4, 5]
    learned = [learn(pair, part) for part in parts]
    assert whole == pytest.approx(sum(loss for loss, _ in learned))
    summed = {name: sum(part[name] for _, part in learned) for name in grads}
    torch.testing.assert_close(summed, grads)


def test_scoring_in_batches_is_scoring_at_once() -> None:
    pair = tiny_pair()
    at_once = score_rollouts(pair, PROMPTS, RESPONSES, settings())
    by_one = score_rollouts(
        pair, PROMPTS, RESPONSES, RolloutSettings(0.2, 3, frozenset({END}), batch_size=1)
    )
    check_same_learning(pair, at_once, by_one)


def test_rows_of_one_head_alone() -> None:
    """A student whose head was padded learns as one whose head was not."""
    narrow, teacher = tiny_llama(0), tiny_llama(1, width=12)
    wide = tiny_llama(0, vocabulary=7)
    weights = narrow.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = wide.state_dict()[name] * 10
        rows[:4] = weights[name]
        weights[name] = rows
    wide.load_state_dict(weights)
    pairs = [ModelPair(SplitModel(model), SplitModel(teacher)) for model in (narrow, wide)]
    found = [learn(pair, score_rollouts(pair, PROMPTS, RESPONSES, settings())) for pair in pairs]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    head = found[1][1]["lm_head.weight"]
    torch.testing.assert_close(head[:4], found[0][1]["lm_head.weight"])
    assert not head[4:].any()


def test_sampling_is_a_function_of_its_seed() -> None:
    pair = tiny_pair()
    drawn = RolloutSettings(0.2, 6, frozenset({END}), batch_size=2)

    def sample(seed: int) -> list[list[int]]:
        return sample_rollouts(pair, PROMPTS, drawn, seed).input_ids.tolist()

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert sample(7) == sample(7) != sample(8)
    assert torch.equal(before, torch.random.get_rng_state())


def test_sampled_responses_follow_their_prompts() -> None:
    """Of a student that leaves nothing to chance."""
    student = tiny_llama(2, vocabulary=9)
    with torch.no_grad():
        student.lm_head.weight *= 1000
    pair = ModelPair(SplitModel(student), SplitModel(tiny_llama(1, vocabulary=9, width=12)))
    prompts = [[5, 6, 7], [1], [8, 2], [4], [7, 7, 7, 1]]
    drawn = RolloutSettings(0.0, 6, frozenset({END}), pad_id=1, batch_size=2)
    rollouts = sample_rollouts(pair, prompts, drawn, seed=3)
    said = set()
    for row, prompt in enumerate(prompts):
        whole = list(prompt)
        while len(whole) < len(prompt) + 6 and END not in whole[len(prompt) :]:
            whole.append(int(student(torch.tensor([whole])).logits[0, -1].argmax()))
        assert rollouts.input_ids[row, : len(whole)].tolist() == whole
        assert rollouts.mask[row].nonzero().flatten().tolist() == list(
            range(len(prompt), len(whole))
        )
        said.add(tuple(whole[len(prompt) :]))
    assert len(said) >= 4, "responses are too alike to be mixed up"


@pytest.mark.parametrize(("prompts", "responses"), [([[]], [[1]]), ([[1]], [[]])])
def test_empty_prompts_and_responses(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> None:
    with pytest.raises(ValueError, match="at least one prompt token and one response token"):
        score_rollouts(tiny_pair(), prompts, responses, settings())


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_share_of_the_teacher(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be at least 0 and below 1"):
        settings(alpha)
