"""The likeliest of given answers, against each answer by itself."""

import random

import pytest
import torch
from gistserve.training.step_by_step.ranking import likeliest

from .tiny_models import make_model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_it_is_the_one_of_lowest_loss(kind: str) -> None:
    """Against transformers' own loss of every pair, without padding or cache."""
    model = make_model(kind).double().eval()
    draw = random.Random(3)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(3, 40) for _ in range(draw.randint(least, most))]

    prompts = [ids(1, 9) for _ in range(15)]
    candidates = [[[*ids(0, 3), 1] for _ in range(draw.randint(1, 5))] for _ in prompts]
    expected = []
    for prompt, targets in zip(prompts, candidates, strict=True):
        losses = []
        for target in targets:
            given, labels = prompt, target
            if kind != "t5":
                given, labels = prompt + target, [-100] * len(prompt) + target
            out = model(input_ids=torch.tensor([given]), labels=torch.tensor([labels]))
            losses.append(float(out.loss.detach()) * len(target))
        expected.append(min(range(len(losses)), key=losses.__getitem__))
    assert len(set(expected)) > 2
    for batch_size in (1, 4, 15):
        assert likeliest(model, prompts, candidates, pad_id=0, batch_size=batch_size) == expected
