"""Batches of both tasks, and logits where answers are asked for."""

import pytest
import torch
from gistserve.training.step_by_step.batch import (
    Encoder,
    Example,
    Row,
    collate_causal,
    collate_encoder_decoder,
)
from gistserve.training.step_by_step.forward import task_logits
from gistserve.training.step_by_step.loss import task_losses, task_tokens
from gistserve.training.step_by_step.tasks import TaskText
from gistserve.training.text_ids import IGNORED

from .tiny_models import make_model, make_tokenizer

ROWS = [Row(0, [7, 8, 9], [10, 1]), Row(1, [7, 8], [11, 12, 13, 1]), Row(0, [5] * 6, [14, 1])]
EXAMPLES = [Example(rows=ROWS[:2], input_ids=[]), Example(rows=ROWS[2:], input_ids=[])]


def test_a_causal_batch() -> None:
    batch = collate_causal(EXAMPLES, pad_id=0)
    assert batch["input_ids"].tolist() == [
        [7, 8, 9, 10, 0, 0, 0],
        [7, 8, 11, 12, 13, 0, 0],
        [5, 5, 5, 5, 5, 5, 14],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [4, 5, 7]
    assert batch["logits_to_keep"].tolist() == [1, 2, 3, 4, 5, 6]
    assert batch["labels"].tolist() == [
        [IGNORED, 10, 1, IGNORED, IGNORED, IGNORED],
        [11, 12, 13, 1, IGNORED, IGNORED],
        [IGNORED, IGNORED, IGNORED, IGNORED, 14, 1],
    ]
    assert batch["tasks"].tolist() == [0, 1, 0]


def test_an_encoder_decoder_batch() -> None:
    batch = collate_encoder_decoder(EXAMPLES, pad_id=0, start_id=4)
    assert batch["input_ids"].shape == (3, 6)
    assert batch["decoder_input_ids"].tolist()[:2] == [[4, 10, 0, 0], [4, 11, 12, 13]]
    assert batch["labels"].tolist()[0] == [10, 1, IGNORED, IGNORED]
    assert batch["attention_mask"].sum(1).tolist() == [3, 2, 6]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_the_loss_is_that_of_each_row_alone(kind: str) -> None:
    """Against transformers' own loss of every row by itself, without padding."""
    model = make_model(kind).double().eval()
    causal = kind != "t5"
    batch = (
        collate_causal(EXAMPLES, pad_id=0)
        if causal
        else collate_encoder_decoder(EXAMPLES, pad_id=0, start_id=0)
    )
    labels, tasks = batch.pop("labels"), batch.pop("tasks")
    losses = task_losses(task_logits(model, batch), labels, tasks, task_tokens(labels, tasks))
    sums, counts = [0.0, 0.0], [0, 0]
    for row in ROWS:
        if causal:
            ids = torch.tensor([row.prompt + row.target])
            wanted = torch.tensor([[IGNORED] * len(row.prompt) + row.target])
        else:
            ids, wanted = torch.tensor([row.prompt]), torch.tensor([row.target])
        mean = model(input_ids=ids, labels=wanted).loss
        sums[row.task] += float(mean.detach()) * len(row.target)
        counts[row.task] += len(row.target)
    expected = [total / count for total, count in zip(sums, counts, strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_what_is_too_long_is_cut_and_counted() -> None:
    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer, True, max_input_tokens=4, max_target_tokens=3)
    example = encoder.example([TaskText(0, "Ana has 6 apples", "6 - 4 - 2")])
    assert tokenizer.decode(example["rows"][0].prompt) == "Ana has =>"
    assert tokenizer.decode(example["rows"][0].target) == " 6 -<end>"
    assert encoder.cut == {"inputs": 1, "targets": 1}
    short = encoder.example([TaskText(0, "Ana", "6")])
    assert tokenizer.decode(short["input_ids"]) == "Ana => 6<end>"
    assert encoder.cut == {"inputs": 1, "targets": 1}
