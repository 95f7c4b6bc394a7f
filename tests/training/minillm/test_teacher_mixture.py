"""Teacher-mixed sampling, against both models without any cache."""

import pytest
import torch
from gistserve.training.generate import generate
from gistserve.training.minillm.rollouts import ModelPair, RolloutSettings, sample_rollouts
from gistserve.training.minillm.split_model import SplitModel
from gistserve.training.minillm.teacher_mixture import TeacherMixture
from gistserve.training.padding import pad_left
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from .tiny_pairs import END, tiny_gpt2, tiny_llama, tiny_pair

WORDS = 20


class Recorded(TeacherMixture):
    """Keeps what it was asked, and what it answered."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mixed = super().__call__(input_ids, scores)
        self.calls.append((input_ids, mixed))
        return mixed

    calls: list[tuple[Tensor, Tensor]]


def next_distribution(model: PreTrainedModel, ids: list[int], words: int) -> Tensor:
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1, :words].double().softmax(-1)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
@torch.no_grad()
def test_every_step_of_a_padded_batch(make: object, alpha: float) -> None:
    """The student has more rows than the teacher: what is behind the shared ones never comes."""
    student, teacher = make(0, WORDS + 3), make(1, WORDS, width=12)  # type: ignore[operator]
    prompts = [[5], [1, 2, 3, 4, 5, 6], [7, 8, 9]]
    ids, mask = pad_left(prompts, 0)
    mixture = Recorded(teacher, mask, alpha, WORDS)
    mixture.calls = []
    torch.manual_seed(0)
    generate(
        student, ids, mask, end_ids=[], pad_id=0, max_new_tokens=6, do_sample=True,
        logits_processor=LogitsProcessorList([mixture]),
    )  # fmt: skip
    assert len(mixture.calls) == 6
    for whole, mixed in mixture.calls:
        for row, prompt in enumerate(prompts):
            read = prompt + whole[row, ids.shape[1] :].tolist()
            expected = alpha * next_distribution(teacher, read, WORDS) + (
                1 - alpha
            ) * next_distribution(student, read, WORDS)
            torch.testing.assert_close(
                mixed[row, :WORDS].exp().double(), expected, atol=1e-5, rtol=1e-4
            )
            assert bool((mixed[row, WORDS:] == -torch.inf).all())


def test_tokens_come_as_often_as_the_mixture_says() -> None:
    pair, prompt = tiny_pair(), [2]
    count, alpha = 4000, 0.5
    rollouts = sample_rollouts(
        pair, [prompt] * count, RolloutSettings(alpha, 1, frozenset({END}), 0, count), seed=5
    )
    first = rollouts.input_ids[:, len(prompt)]
    shares = torch.bincount(first, minlength=4) / count
    with torch.no_grad():
        both = [next_distribution(m.model, prompt, 4) for m in (pair.student, pair.teacher)]
    expected = (1 - alpha) * both[0] + alpha * both[1]
    assert float(expected.min()) > 0.1, "a token is too rare to be missed"
    assert float((both[0] - expected).abs().max()) > 0.1, "the mixture is too like the student"
    torch.testing.assert_close(shares.double(), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_no_token_that_the_teacher_lacks(alpha: float) -> None:
    student, teacher = tiny_llama(0, 8), tiny_llama(1, 4, width=12)
    with torch.no_grad():
        student.lm_head.weight[4:] *= 100
    pair = ModelPair(SplitModel(student), SplitModel(teacher))
    rollouts = sample_rollouts(
        pair, [[0], [1, 2]] * 8, RolloutSettings(alpha, 8, frozenset({END})), seed=0
    )
    assert int(rollouts.input_ids.max()) < 4
    assert bool(rollouts.rewards.isfinite().all())
