"""Students made here next to their teacher in one server: each answers as it does alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from gistserve.server.demo.process import ServerProcess
from gistserve.training.example_data import example_records
from gistserve.training.minillm import train_minillm
from gistserve.training.minillm.config import MiniLLMConfig
from gistserve.training.step_by_step import train_step_by_step
from transformers import AutoModelForCausalLM, AutoTokenizer

from .step_by_step.tiny_models import make_model, make_tokenizer, settings

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

QUESTIONS = [str(record["input"]) for record in example_records("sums", "test")[:4]]
TOKENS = 12


def save(folder: Path, kind: str, size: int, seed: int) -> Path:
    make_model(kind, size=size, seed=seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher, a student by each of the two methods, and what they were made of."""
    folder = tmp_path_factory.mktemp("students")
    teacher = save(folder / "teacher", "llama", size=48, seed=1)
    base = save(folder / "base", "gpt2", size=32, seed=2)
    data = folder / "pairs.jsonl"
    pairs = [
        {"prompt": r["input"], "response": r["label"]} for r in example_records("sums", "train")
    ]
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:32]))
    minillm = MiniLLMConfig(
        model=str(base),
        teacher=str(teacher),
        train_data=str(data),
        output_dir=str(folder / "minillm"),
        validation_share=0.25,
        max_prompt_tokens=64,
        max_new_tokens=TOKENS,
        sft_epochs=1,
        sft_batch_size=8,
        rollouts=8,
        inner_epochs=1,
        minibatch=8,
        max_steps=2,
        eval_steps=2,
        save_steps=2,
        validation_prompts=4,
        tensorboard=False,
        attn_implementation="eager",
        device="cpu",
    )
    explained = settings(base, folder / "explained", max_steps=4)
    return {
        "teacher": teacher,
        "org/minillm-student": train_minillm(minillm),
        "explained-student": train_step_by_step(explained),
    }


def alone(folder: Path) -> list[str]:
    """What transformers writes greedily behind each question."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for question in QUESTIONS:
        ids = torch.tensor([tokenizer(question).input_ids])
        out = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)
        texts.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def test_one_server_for_teacher_and_students(models: dict[str, Path], tmp_path: Path) -> None:
    expected = {name: alone(folder) for name, folder in models.items()}
    assert len({tuple(texts) for texts in expected.values()}) == len(models)
    arguments = ["--store", str(tmp_path / "store"), "--dtype", "float32", "--device", "cpu"]
    for name, folder in models.items():
        arguments += ["--model", f"{name}={folder}"]
    with ServerProcess(arguments, tmp_path / "log") as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            listed = client.get("/v1/models").json()["data"]
            assert [entry["id"] for entry in listed] == list(models)

            def ask(pair: tuple[str, str]) -> str:
                name, question = pair
                body = {"model": name, "prompt": question, "max_tokens": TOKENS, "temperature": 0}
                response = client.post("/v1/completions", json=body)
                assert response.status_code == 200, response.text
                assert response.json()["model"] == name
                return response.json()["choices"][0]["text"]

            # All at once, so that the models' engines work side by side.
            asked = [(name, question) for question in QUESTIONS for name in models]
            with ThreadPoolExecutor(len(asked)) as threads:
                answers = dict(zip(asked, threads.map(ask, asked), strict=True))
    for name, texts in expected.items():
        assert [answers[name, question] for question in QUESTIONS] == texts
