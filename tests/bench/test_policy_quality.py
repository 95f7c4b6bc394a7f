"""The quality bench on an untrained miniature: what each arm is given, and what is counted."""

import json
from pathlib import Path

import pytest
import torch
from gistserve.bench.policy_quality import ARMS, SPLITS, PolicyQuality, Score
from gistserve.bench.policy_report import print_report
from gistserve.bench.results import write_result
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.compressor import GistCompressor
from gistserve.compress.config import GistConfig
from gistserve.compress.fingerprint import model_fingerprint
from gistserve.training.demo.base import BaseConfig, build_model
from gistserve.training.demo.tokenizer import train_tokenizer
from rich.console import Console
from transformers import DynamicCache


@pytest.fixture(scope="module")
def quality(tmp_path_factory: pytest.TempPathFactory) -> PolicyQuality:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(0, policies=800)
    tiny = BaseConfig(hidden_size=32, layers=2, heads=2, head_dim=16, intermediate_size=48)
    model = build_model(tiny, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = GistConfig(num_gist_tokens=5, lora_rank=2, base_model="tiny")
    adapter = GistAdapter.create(model, config, noise=1.0)
    for lora in adapter.loras:
        torch.nn.init.normal_(lora.b, std=0.1)
    config.base_fingerprint = model_fingerprint(model, tokenizer, source=folder)
    adapter.save(folder / "gist_adapter")
    return PolicyQuality(folder, folder / "gist_adapter")


def greedy(model, ids: list[int], cache: DynamicCache, position: int, count: int) -> list[int]:
    """Plain greedy decoding behind a cache, positions explicit."""
    model.set_attn_implementation("eager")
    out: list[int] = []
    with torch.no_grad():
        while len(out) < count and (not out or out[-1] != model.config.eos_token_id):
            where = position + torch.arange(len(ids))[None]
            logits = model(torch.tensor([ids]), past_key_values=cache, position_ids=where).logits
            position += len(ids)
            ids = [int(logits[0, -1].argmax())]
            out += ids
    return out


def test_each_arm_reads_what_its_name_says(quality: PolicyQuality) -> None:
    model, slots = quality.model, quality.adapter.config.slots
    for case in quality.cases(SPLITS["main"], 2, "test"):
        gist = GistCompressor(model, quality.adapter).compress(case.policy_ids)
        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(gist.keys, gist.values, strict=True)):
            cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], layer)
        expected = {
            "full": greedy(model, case.policy_ids + case.message_ids, DynamicCache(), 0, 48),
            "truncated": greedy(
                model, case.policy_ids[:slots] + case.message_ids, DynamicCache(), 0, 48
            ),
            "none": greedy(model, case.alone_ids, DynamicCache(), 0, 48),
            "gist": greedy(model, case.message_ids, cache, gist.next_position, 48),
        }
        for arm, ids in expected.items():
            answer = quality.tokenizer.decode(ids, skip_special_tokens=True)
            score = quality.score(arm, [case._replace(reply=answer)])
            assert score.exact == 1, arm


def test_a_wrong_answer_is_not_counted(quality: PolicyQuality) -> None:
    score = Score()
    case = quality.cases(SPLITS["main"], 1, "test")[0]
    score.add(case, case.reply)
    score.add(case, case.reply + " ")
    assert score.to_json()["exact_match"] == 0.5


def test_the_run_reports_every_split_and_leaves_the_weights(
    quality: PolicyQuality, tmp_path: Path
) -> None:
    figures = quality.run(3, seed=1)
    assert figures["weights_hash_before"] == figures["weights_hash_after"]
    assert set(figures["splits"]) == set(SPLITS)
    for split in figures["splits"].values():
        assert set(split["arms"]) == set(ARMS)
        assert all(arm["answers"] == 3 for arm in split["arms"].values())
    assert figures["fidelity"]["full"]["kl_mean"] == pytest.approx(0, abs=1e-9)
    write_result(tmp_path / "new" / "result.json", figures)
    stored = json.loads((tmp_path / "new" / "result.json").read_text())
    assert stored["splits"] == figures["splits"] and stored["made_by"]["versions"]["torch"]
    console = Console(record=True, width=120)
    print_report(figures, console)
    assert "untrained gist" in console.export_text()
