"""Losses and measures, against transformers and sums over the vocabulary by hand."""

from pathlib import Path

import pytest
import torch
from gistserve.training.generate import SamplingSettings
from gistserve.training.minillm.data import Pair, read_pairs
from gistserve.training.minillm.evaluation import Evaluation
from gistserve.training.minillm.measures import distinct_n
from gistserve.training.minillm.models import Models, load_models
from gistserve.training.minillm.supervised import SupervisedObjective, collate
from gistserve.training.minillm.template import PromptTemplate
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .tiny_run import make_folder, settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    found = load_models(settings(folder, folder))
    found.student.double()
    assert found.teacher is not None
    found.teacher.double()
    return found


@pytest.fixture(scope="module")
def pairs(folder: Path, models: Models) -> list[Pair]:
    """Of different lengths, so that batches are padded."""
    config = settings(folder, folder)
    found = read_pairs(config.train_data, config, PromptTemplate("plain", models.tokenizer))
    short = Pair("my", " .", found[0].prompt_ids[:2], found[0].response_ids[-2:])
    return [*found[:4], short, *found[4:]]


def step_log_probs(models: Models, pair: Pair) -> tuple[Tensor, Tensor]:
    """log q and log p [T, V] over the shared vocabulary where the response is predicted."""
    ids = torch.tensor([pair.prompt_ids + pair.response_ids])
    first, rows = len(pair.prompt_ids) - 1, models.student.config.vocab_size
    assert models.teacher is not None
    with torch.no_grad():
        both = [model(ids).logits[0, first:-1, :rows] for model in (models.student, models.teacher)]
    ours, theirs = (logits.log_softmax(-1) for logits in both)
    return ours, theirs


@pytest.mark.parametrize("kd_share", [0.0, 0.3, 1.0])
def test_losses_on_given_responses(kd_share: float, models: Models, pairs: list[Pair]) -> None:
    total, tokens = 0.0, 0
    for pair in pairs:
        ours, theirs = step_log_probs(models, pair)
        gold = torch.tensor(pair.response_ids)
        entropy = -ours[range(len(gold)), gold].sum()
        divergence = (theirs.exp() * (theirs - ours)).sum()
        total += float(kd_share * divergence + (1 - kd_share) * entropy)
        tokens += len(gold)
    objective = SupervisedObjective(models, kd_share)
    batch = collate(pairs, models.pad_id)
    assert objective(**batch)["loss"].item() == pytest.approx(total / tokens)
    given_count = objective(**batch, num_items_in_batch=torch.tensor(7))["loss"]
    assert given_count.item() == pytest.approx(total / 7)
    trained = {id(parameter) for parameter in objective.parameters()}
    assert trained == {id(parameter) for parameter in models.student.parameters()}


def test_loss_is_that_of_transformers(models: Models, pairs: list[Pair]) -> None:
    batch = collate(pairs, models.pad_id)
    expected = models.student(**batch).loss
    ours = SupervisedObjective(models)(**batch)["loss"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)  # theirs is in float32


class Scripted:
    """Writes the responses it is given, whatever the settings."""

    def __init__(self, responses: list[list[int]]) -> None:
        self._responses = responses
        self.settings: list[SamplingSettings] = []

    def __call__(self, prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        self.settings.append(settings)
        return self._responses[: len(prompts)]


def test_measures_of_samples(
    folder: Path, models: Models, pairs: list[Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    written = [pair.response_ids for pair in pairs]
    written[0] = written[0][:-1]  # cut off: no end token
    written[1] = written[2]
    config = settings(folder, folder, validation_prompts=6, eval_batch_size=4)
    generate = Scripted(written)
    template = PromptTemplate("plain", models.tokenizer)
    found = Evaluation(models, template, config, generate).validation(pairs)
    asked = pairs[:6]
    divergence = []
    for pair, response in zip(asked, written, strict=False):
        ours, theirs = step_log_probs(models, Pair(pair.prompt, "", pair.prompt_ids, response))
        divergence.append(float((ours.exp() * (ours - theirs)).sum()))
    tokens = sum(map(len, written[:6]))
    assert found["reverse_kl"] == pytest.approx(sum(divergence) / 6)
    assert found["reverse_kl_per_token"] == pytest.approx(sum(divergence) / tokens)
    assert found["tokens"] == pytest.approx(tokens / 6)
    assert found["ended"] == pytest.approx(5 / 6)
    assert found["exact_match"] == pytest.approx(5 / 6)
    # ` a green cat .` for ` a blue cat .`: two of three words in order.
    assert found["rouge_l"] == pytest.approx((5 + 2 / 3) / 6)
    assert generate.settings == [SamplingSettings(8, 1.0, 0)]
    losses = [step_log_probs(models, pair)[0] for pair in pairs]
    golds = [torch.tensor(pair.response_ids) for pair in pairs]
    entropy = -sum(float(row[range(len(g)), g].sum()) for row, g in zip(losses, golds, strict=True))
    assert found["loss"] == pytest.approx(entropy / sum(map(len, golds)))
    assert "my cat is red ." in capsys.readouterr().out


def test_the_test_samples_several_times(folder: Path, models: Models, pairs: list[Pair]) -> None:
    generate = Scripted([pair.response_ids for pair in pairs])
    config = settings(folder, folder, test_samples=3, seed=5)
    template = PromptTemplate("plain", models.tokenizer)
    found = Evaluation(models, template, config, generate).test(pairs)
    assert generate.settings == [SamplingSettings(8, 1.0, seed) for seed in (6, 7, 8)] + [
        SamplingSettings(8, 0, 5)
    ]
    assert found["greedy_rouge_l"] == found["rouge_l"] == 1.0
    assert found["rouge_l_sd"] == 0.0


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=8), max_size=4))
def test_distinct_4(texts: list[list[str]]) -> None:
    grams = [tuple(words[i : i + 4]) for words in texts for i in range(len(words) - 3)]
    found = distinct_n([" ".join(words) for words in texts])
    assert found == (len(set(grams)) / len(grams) if grams else 1.0)
