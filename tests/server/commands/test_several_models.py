"""A teacher, its sparse form and its student in one server, each with an engine of its own."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gistserve.compress.sparse import save_sparse, sparsify
from gistserve.server.commands.announcement import announce
from gistserve.server.commands.model_loading import load_served_models
from gistserve.server.commands.model_options import ModelOptions, model_from_mapping
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.loader import load_model
from gistserve.server.engine.request import Request, RequestOutput, SamplingParams
from gistserve.server.logs import LogFormat

from ...chat_model import byte_tokenizer
from ...families import tiny_model

MIB = 2**20
PROMPT = list(range(5, 45))
LENGTH = 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    teacher = tiny_model("qwen3", hidden_size=64, intermediate_size=600, vocab_size=262)
    student = tiny_model("llama", num_hidden_layers=1, vocab_size=262, max_position_embeddings=128)
    for name, model in (("teacher", teacher), ("student", student)):
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    recipe = sparsify(teacher, sparsity=0.8)
    save_sparse(teacher, folder / "sparse", recipe, tokenizer=byte_tokenizer())
    return {name: folder / name for name in ("teacher", "sparse", "student")}


def load(folders: dict[str, Path], total: int | None, **own: dict[str, object]):
    models: list[ModelOptions] = [
        model_from_mapping({"name": name, "path": str(folder), **own.get(name, {})})
        for name, folder in folders.items()
    ]
    base = EngineConfig(kv_cache_memory=total, device="cpu", max_num_seqs=2)
    return {model.name: model for model in load_served_models(models, [], base, lambda _: None)}


def expected(folder: Path) -> list[int]:
    """What transformers generates."""
    model, _ = load_model(folder, device="cpu")
    output = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=LENGTH, do_sample=False, pad_token_id=0
    )
    return output[0, len(PROMPT) :].tolist()


def test_each_answers_with_its_own_weights_at_the_same_time(folders) -> None:
    served = load(folders, 3 * MIB)
    tokens: dict[str, list[int]] = {name: [] for name in served}
    ended = {name: threading.Event() for name in served}

    def collect(output: RequestOutput) -> None:
        tokens[output.request_id] += output.new_token_ids
        if output.finish_reason is not None:
            ended[output.request_id].set()

    for model in served.values():
        model.engine.start()
    try:
        sampling = SamplingParams(max_tokens=LENGTH, temperature=0.0)
        for name, model in served.items():
            model.engine.submit(Request(name, PROMPT, sampling), collect)
        assert all(event.wait(60) for event in ended.values())
        threads = [thread.name for thread in threading.enumerate()]
    finally:
        for model in served.values():
            model.engine.shutdown()
    assert threads.count("gistserve-engine") == len(served)
    assert tokens == {name: expected(folder) for name, folder in folders.items()}


def test_memory_is_divided_by_what_the_longest_sequences_take(folders) -> None:
    info = {name: model.engine.info for name, model in load(folders, 3 * MIB).items()}
    sequence = {name: one.kv_bytes_per_token * one.max_model_len for name, one in info.items()}
    assert sequence["teacher"] == sequence["sparse"] > sequence["student"]
    for name, one in info.items():
        part = 3 * MIB * sequence[name] / sum(sequence.values())
        assert 0 <= part - one.kv_cache_bytes < one.kv_bytes_per_token * one.block_size
        assert one.kv_cache_bytes == one.num_blocks * one.block_size * one.kv_bytes_per_token


def test_a_share_of_its_own(folders) -> None:
    info = {
        name: model.engine.info
        for name, model in load(folders, 4 * MIB, student={"kv_share": 0.5}).items()
    }
    assert 2 * MIB - 10_000 < info["student"].kv_cache_bytes <= 2 * MIB
    assert info["teacher"].kv_cache_bytes == info["sparse"].kv_cache_bytes


def test_memory_that_the_server_chooses_is_no_more_than_can_be_used(folders) -> None:
    for model in load(folders, None).values():
        info = model.engine.info
        assert info.num_blocks * info.block_size == 2 * info.max_model_len


def test_memory_for_less_than_a_sequence(folders, caplog) -> None:
    with pytest.raises(ValueError, match=r"teacher gets .* one sequence of 256 tokens takes"):
        load(folders, MIB // 4, teacher={"max_model_len": 256})
    served = load(folders, MIB // 4)
    assert served["teacher"].max_model_len < 256
    assert "teacher is served with at most" in caplog.text


def test_what_is_announced_can_be_asked(folders, capsys) -> None:
    served = load(folders, 3 * MIB)
    student = served["student"]
    announce([student, served["teacher"]], "http://127.0.0.1:1", True, LogFormat.text)
    said = " ".join(capsys.readouterr().out.split())
    info = student.engine.info
    assert f"student: up to {info.max_model_len} tokens" in said
    assert f"KV cache of {info.num_blocks * info.block_size} tokens" in said
    assert "http://127.0.0.1:1/v1/chat/completions" in said
    student.tokenizer.chat_template = None
    announce([student], "http://127.0.0.1:1", False, LogFormat.text)
    said = capsys.readouterr().out
    assert "http://127.0.0.1:1/v1/completions" in said and "/chat/" not in said
    announce([replace(student, generates=False)], "http://127.0.0.1:1", False, LogFormat.text)
    assert "http://127.0.0.1:1/v1/embeddings" in capsys.readouterr().out


def test_sparse_layers_are_made_ready_for_the_batches_to_come(folders, monkeypatch) -> None:
    batches = set()

    def choose(*shape: object, decode_batch: int, **options: object) -> str:
        batches.add(decode_batch)
        return "dense"

    monkeypatch.setattr("gistserve.kernels.sparse.linear.choose_format", choose)
    only = {"sparse": folders["sparse"]}
    load(only, MIB)
    assert batches == {2}  # never more than run at once
    batches.clear()
    load(only, MIB, sparse={"max_num_seqs": 64})
    assert batches == {EngineConfig().decode_batch}
    batches.clear()
    load_model(folders["sparse"], device="cpu", decode_batch=5)
    assert batches == {5}


def test_two_models_of_one_name(folders) -> None:
    twice = [model_from_mapping({"name": "m", "path": str(folders["student"])})] * 2
    with pytest.raises(ValueError, match="must differ, got m, m"):
        load_served_models(twice, [], EngineConfig(), lambda _: None)
