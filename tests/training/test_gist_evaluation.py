"""Evaluation of gists against hand-made forwards and transformers' own greedy decoding."""

import math
from types import SimpleNamespace

import pytest
import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.config import GistConfig
from gistserve.training.end_tokens import end_tokens
from gistserve.training.gist.batch import GistExample, Turn
from gistserve.training.gist.evaluation import ARMS, ArmCaches, evaluate_gist
from gistserve.training.gist.forward import PromptCaches
from gistserve.training.gist.generation import greedy_decode
from gistserve.training.metrics import exact_match, rouge_l
from transformers import GenerationConfig

from ..compress.tiny_models import randomise, tiny_model

pytest.importorskip("torchmetrics")

PROMPTS = [[3, 17, 9, 41, 22, 8, 30, 5], [4, 6, 19], [50, 51, 52, 53, 54]]
INPUTS = [[7, 8], [20, 21, 22, 23], [10], [33, 34]]
OWNERS = [0, 0, 1, 2]


class Words:
    """A tokenizer that writes ids as words; 2 ends a text."""

    eos_token_id = 2

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return [" ".join(str(i) for i in row if i != 2) for row in rows]


def make(**settings) -> tuple:
    model = tiny_model("llama")
    config = GistConfig(**({"num_gist_tokens": 2, "lora_rank": 4} | settings))
    return model, randomise(GistAdapter.create(model, config))


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, PROMPTS))
    rows = [prompt + [0] * (width - len(prompt)) for prompt in PROMPTS]
    return torch.tensor(rows), torch.tensor([len(prompt) for prompt in PROMPTS])


def by_generate(model, ids: list[int], count: int, stop: int | None) -> list[int]:
    config = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=stop, pad_token_id=0
    )
    tokens = torch.tensor([ids])
    out = model.generate(tokens, generation_config=config)
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("arm", ["full", "truncated", "none"])
def test_greedy_decoding_equals_generate(arm: str) -> None:
    model, adapter = make()
    prompts = ArmCaches(model, adapter).build(arm, *padded())
    free = greedy_decode(model, prompts, torch.tensor(OWNERS), INPUTS, 9, set())
    stop = free[0][3]
    stopped = greedy_decode(model, prompts, torch.tensor(OWNERS), INPUTS, 9, {stop})
    kept = {"full": None, "truncated": adapter.config.slots, "none": 0}[arm]
    for row, (owner, ids) in enumerate(zip(OWNERS, INPUTS, strict=True)):
        whole = PROMPTS[owner][:kept] + ids
        assert free[row] == by_generate(model, whole, 9, None)
        assert stopped[row] == by_generate(model, whole, 9, stop)
    assert len(stopped[0]) <= 4


def test_gist_arm_continues_at_the_position_behind_the_gists() -> None:
    model, adapter = make()
    caches = ArmCaches(model, adapter)
    prompts = caches.build("gist", *padded())
    answers = greedy_decode(model, prompts, torch.tensor(OWNERS), INPUTS, 6, set())
    for row, (owner, ids) in enumerate(zip(OWNERS, INPUTS, strict=True)):
        alone = torch.tensor([PROMPTS[owner]])
        states = caches._trained.compress_batch(alone, torch.tensor([alone.shape[1]]))
        cache = PromptCaches(states).rows(torch.tensor([0]))[0]
        position, expected, step = alone.shape[1] + 2, [], ids
        for _ in range(6):
            positions = torch.arange(position, position + len(step))[None]
            logits = model(
                torch.tensor([step]), position_ids=positions, past_key_values=cache
            ).logits
            position += len(step)
            step = [int(logits[0, -1].argmax())]
            expected += step
        assert answers[row] == expected


def test_report_of_a_model_that_answers_from_its_prompt() -> None:
    """References are what the full prompt gives, so `full` is perfect by construction."""
    model, adapter = make()
    prompts = ArmCaches(model, adapter).build("full", *padded())
    answers = greedy_decode(model, prompts, torch.tensor(OWNERS), INPUTS, 5, set())
    turns = [Turn(ids, answer) for ids, answer in zip(INPUTS, answers, strict=True)]
    examples = [
        GistExample(PROMPTS[0], turns[:2]),
        GistExample(PROMPTS[1], turns[2:3]),
        GistExample(PROMPTS[2], turns[3:]),
    ]
    report = evaluate_gist(model, Words(), adapter, examples, batch_size=2, stop_ids=[])
    assert list(report) == list(ARMS)
    full, none = report["full"], report["none"]
    assert full["exact_match"] == full["rouge_l"] == full["top1_agreement"] == 1
    assert full["kl_mean"] == pytest.approx(0, abs=1e-6)
    assert full["recovered_fraction"] == pytest.approx(1)
    assert none["recovered_fraction"] == pytest.approx(0)
    assert none["kl_mean"] > 0.01
    assert none["exact_match"] < 1
    assert none["top1_agreement_where_prompt_matters"] == 0
    assert full["tokens"] == 20 and full["answers"] == 4
    for arm in report.values():
        assert arm["kl_p95"] <= arm["kl_max"]
        assert math.isfinite(arm["nll"])
    assert report["gist"]["kl_mean"] != report["untrained"]["kl_mean"]


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    model, adapter = make()
    examples = [GistExample(prompt, [Turn([7, 8], [9, 2])]) for prompt in PROMPTS]
    one, many = (
        evaluate_gist(model, Words(), adapter, examples, batch_size=size) for size in (1, 8)
    )
    for arm in ARMS:
        assert one[arm] == pytest.approx(many[arm], abs=1e-4)
    with pytest.raises(ValueError, match="no examples"):
        evaluate_gist(model, Words(), adapter, [])


def test_end_tokens_of_tokenizer_and_model() -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[5, 6]))
    assert end_tokens(model, Words()) == {2, 5, 6}
    model.generation_config.eos_token_id = None
    assert end_tokens(model, Words()) == {2}


def test_rouge_l_and_exact_match() -> None:
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert rouge_l("", "") == 1
    assert rouge_l("a", "") == 0
    assert exact_match(" a b\n", "a b")
    assert not exact_match("a b", "a  b")
