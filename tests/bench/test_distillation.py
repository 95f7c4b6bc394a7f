"""Data and figures of the comparison of distillations."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.distillation import read_results
from gistserve.bench.distillation_data import prepare_data, sentence_pairs
from gistserve.bench.distillation_plan import Run, base_config, planned_runs, teacher_config
from gistserve.bench.distillation_report import (
    MEASURES,
    plot_report,
    print_report,
    summarise,
    verdicts,
)
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

pytest.importorskip("matplotlib")

STORY = (
    'Once there was a cat named Tom. He saw a "big" dog.\nIt said, "Hello, little cat!" '
    "Tom ran home to his mother at once. She gave him warm milk. He was happy again."
)


def test_pairs_of_a_story() -> None:
    assert list(sentence_pairs(STORY)) == [
        ("Once there was a cat named Tom.", ' He saw a "big" dog. It said, "Hello, little cat!"'),
        ("Tom ran home to his mother at once.", " She gave him warm milk. He was happy again."),
    ]  # fmt: skip


@given(st.lists(st.text("ab .!?A", max_size=60), max_size=12))
def test_pairs_are_pieces_of_the_story_in_order(parts: list[str]) -> None:
    story = " ".join(parts)
    plain, position = " ".join(story.split()), 0
    for prompt, response in sentence_pairs(story):
        position = plain.index(prompt + response, position) + len(prompt + response)
        assert 15 <= len(prompt) <= 90 and 30 <= len(response) <= 180


def test_no_story_is_in_two_files(tmp_path: Path) -> None:
    stories = [STORY.replace("Tom", f"Tom{number}") for number in range(3000)]
    for name, part in (("train", stories[:2700]), ("valid", stories[2700:])):
        rows = "".join(json.dumps({"text": story}) + "\n" for story in part)
        (tmp_path / f"{name}.jsonl").write_text(rows)
    prepare_data(tmp_path, tmp_path / "data")
    whole = [json.loads(line)["text"] for line in (tmp_path / "data/pretraining.jsonl").open()]
    assert whole == stories[:2600]
    numbers = []
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"data/{name}.jsonl").open()]
        numbers.append({row["prompt"] for row in rows if "named" in row["prompt"]})
    assert [len(group) for group in numbers] == [20, 80, 200]  # of 400 test pairs
    assert len(set.union(*numbers)) == 300
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="fewer than the 2680"):
        prepare_data(tmp_path, tmp_path / "more")


def test_the_plan_covers_methods_and_seeds(tmp_path: Path) -> None:
    runs = list(planned_runs())
    assert len(runs) == len(set(runs)) == 16
    assert {run.seed for run in runs if run.size == "small"} == {1, 2, 3}
    assert {run.method for run in runs[:8]} == {"sft", "kd", "seqkd", "minillm"}
    configs = [run.config(tmp_path) for run in runs]
    shared = {
        (c.teacher, c.train_data, c.test_data, c.sft_epochs, c.sft_learning_rate) for c in configs
    }
    assert len(shared) == 1
    assert teacher_config(tmp_path, tmp_path).output_dir == str(tmp_path / "teacher")
    assert base_config("medium", tmp_path, tmp_path).new_model is not None


def result(rouge: float, kl: float) -> dict[str, Any]:
    test = dict.fromkeys(MEASURES, 0.5) | {"rouge_l": rouge, "reverse_kl": kl}
    return {
        "parameters": 60_000,
        "teacher_parameters": 260_000,
        "kept_step": 5,
        "training_seconds": 1.5,
        "measures": {"test": test},
        "config": {"model": "/elsewhere/big", "teacher": "near/by", "seed": 1},
    }


def write_runs(work: Path) -> list[Run]:
    values = {"seqkd": (0.20, 0.22, 0.24), "minillm": (0.25, 0.26, 0.27), "sft": (0.1,)}
    runs = []
    for method, measures in values.items():
        for seed, measure in enumerate(measures, start=1):
            run = Run("small", method, seed)  # type: ignore[arg-type]
            (work / "runs" / run.name / "model").mkdir(parents=True)
            text = json.dumps(result(measure, 100 * measure))
            (work / "runs" / run.name / "results.json").write_text(text)
            runs.append(run)
    return [*runs, Run("medium", "kd", 1)]  # which is not done yet


def test_means_spread_and_verdicts(tmp_path: Path) -> None:
    results = read_results(write_runs(tmp_path), tmp_path)
    assert len(results) == 7
    assert results[0]["config"] == {"model": "big", "teacher": "near/by", "seed": 1}
    rows = {row["method"]: row for row in summarise(results)}
    assert list(rows) == ["sft", "seqkd", "minillm"]
    assert rows["seqkd"]["test"]["rouge_l"]["mean"] == pytest.approx(0.22)
    assert rows["seqkd"]["test"]["rouge_l"]["sd"] == pytest.approx(0.02)
    assert rows["sft"]["test"]["rouge_l"]["sd"] is None
    found = {(v["against"], v["measure"]): v for v in verdicts(list(rows.values()))}
    verdict = found["seqkd", "rouge_l"]
    assert verdict["difference"] == pytest.approx(0.04)
    assert verdict["standard_error"] == pytest.approx(math.sqrt((0.02**2 + 0.01**2) / 3))
    assert verdict["ahead"] is True
    assert found["seqkd", "reverse_kl"]["ahead"] is False  # more of it is worse
    assert found["sft", "rouge_l"]["ahead"] is None


def test_the_report_is_printed_and_drawn(tmp_path: Path) -> None:
    rows = summarise(read_results(write_runs(tmp_path), tmp_path))
    console = Console(file=io.StringIO(), width=140)
    print_report(rows, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "26.0 ± 1.0" in said and "MiniLLM" in said and "60,000" in said
    plot_report(rows, result(0.3, 0.0), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
