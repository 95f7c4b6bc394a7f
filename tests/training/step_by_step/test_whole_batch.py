"""One update equals the formula on the whole batch, however the batch is split."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gistserve.training.step_by_step import train_step_by_step
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..process_group import run_two
from .tiny_models import save_model, settings

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

RATE, WEIGHT = 0.1, 0.5
RECORDS = [
    {
        "input": "Ana has 6 coins" + " and 2 more" * (i % 3),
        "label": " + ".join(["2"] * (1 + i % 4)),
        "rationale": "" if i in (0, 1, 4) else " ".join(["The coins are gone"] * (1 + i % 3)),
    }
    for i in range(8)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save_model("llama", folder / "base")
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS))
    return folder


def by_hand(base: Path) -> dict[str, Tensor]:
    """Weights after one step of plain gradient descent, text by text, in float64."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    losses: dict[str, list[Tensor]] = {"label": [], "rationale": []}
    for record in RECORDS:
        for task in losses:
            if record[task]:
                prompt = tokenizer(f"[{task}] {record['input']} =>").input_ids
                target = [*tokenizer(f" {record[task]}").input_ids, tokenizer.eos_token_id]
                logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
                rows = torch.arange(len(target))
                losses[task].append(-logits.log_softmax(-1)[rows, torch.tensor(target)])
    (torch.cat(losses["label"]).mean() + WEIGHT * torch.cat(losses["rationale"]).mean()).backward()
    return {
        name: parameter.detach() - RATE * parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def one_step(place: Path, output: Path, **changes: Any) -> Any:
    return settings(
        place / "base", output, train_data=str(place / "a.jsonl"),
        validation_data=str(place / "a.jsonl"), max_steps=1, eval_steps=1, save_steps=1,
        learning_rate=RATE, rationale_weight=WEIGHT, lr_scheduler="constant", max_grad_norm=1e9,
        trainer={"optim": "sgd", "disable_tqdm": True}, **changes,
    )  # fmt: skip


def check(folder: Path, expected: dict[str, Tensor]) -> None:
    found = load_file(folder / "model.safetensors")
    assert expected.keys() <= found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 1), (2, 4), (3, 3)])
def test_one_process(batch_size: int, parts: int, place: Path, tmp_path: Path) -> None:
    config = one_step(place, tmp_path, batch_size=batch_size, gradient_accumulation_steps=parts)
    check(train_step_by_step(config), by_hand(place / "base"))


def test_two_processes(place: Path, tmp_path: Path) -> None:
    config = one_step(place, tmp_path / "out", batch_size=2, gradient_accumulation_steps=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(vars(config)))
    run_two("train", "step-by-step", "--config", str(tmp_path / "run.yaml"))
    check(tmp_path / "out/model", by_hand(place / "base"))
