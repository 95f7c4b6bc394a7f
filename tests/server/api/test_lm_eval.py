"""lm-eval measures through the server what it measures on the model itself.

Needs lm-eval (`pip install "lm-eval[api]"`), which the test extra leaves out: it brings some forty
packages. Tasks and data are local files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gistserve.compress.store import GistStore
from gistserve.server.api.application import create_app
from gistserve.server.api.served_models import ServedModels

from .conftest import GIST_MODEL, Loaded
from .live_server import LiveServer, live

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("datasets")

DOCS = [
    {"question": "Where is my parcel?", "choices": ["billing", "shipping", "sales"], "label": 1},
    {"question": "I was charged twice.", "choices": ["billing", "shipping", "sales"], "label": 0},
    {"question": "Do you sell tents?", "choices": ["a", "sales, I think", "no"], "label": 1},
    {"question": "It came broken. " * 9, "choices": ["returns", "sales"], "label": 0},
]
CHOICE = {
    "task": "local_choice",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}} Team:",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
PERPLEXITY = {
    "task": "local_perplexity",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "byte_perplexity"}],
}
GENERATION = {
    "task": "local_generation",
    "output_type": "generate_until",
    "doc_to_text": "{{question}} Team:",
    "doc_to_target": "{{choices[label]}}",
    "generation_kwargs": {"until": ["q", "\n"], "max_gen_toks": 24, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
TASKS = (CHOICE, PERPLEXITY, GENERATION)


@pytest.fixture
def server(gist_loaded: Loaded, tmp_path: Path) -> Iterator[LiveServer]:
    model = gist_loaded.serve()
    with (
        GistStore(tmp_path / "store") as store,
        live(create_app(ServedModels([model]), store), lifespan=True) as served,
    ):
        yield served
    model.engine.shutdown()


@pytest.fixture
def tasks(tmp_path: Path) -> Any:
    """The tasks, as a folder of lm-eval's files; JSON is YAML."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    dataset = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(tmp_path / "datasets"),
        },
        "test_split": "test",
    }
    for task in TASKS:
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task | dataset))
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=False)


def measure(model: str, arguments: dict[str, Any], tasks: Any) -> dict[str, Any]:
    return lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=[task["task"] for task in TASKS],
        task_manager=tasks,
        bootstrap_iters=0,
    )


def test_the_same_figures_as_on_the_model_itself(
    server: LiveServer, gist_folder: Path, tasks: Any
) -> None:
    over_http = {
        "model": GIST_MODEL,
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": str(gist_folder),
        "max_length": 512,
    }
    served = measure("local-completions", over_http, tasks)
    here = {"pretrained": str(gist_folder), "dtype": "float32", "device": "cpu", "max_length": 512}
    expected = measure("hf", here, tasks)
    for task in TASKS:
        name = task["task"]
        pairs = zip(served["samples"][name], expected["samples"][name], strict=True)
        for sample, other in pairs:
            _compare(sample["resps"], other["resps"])
        for metric, value in expected["results"][name].items():
            if isinstance(value, float):
                assert served["results"][name][metric] == pytest.approx(value, abs=1e-4), metric
    texts = [sample["resps"][0][0] for sample in served["samples"]["local_generation"]]
    assert len(set(texts)) > 1 and all(texts)


def _compare(answers: Any, expected: Any) -> None:
    """Texts and "was it greedy" are equal, log-likelihoods to 1e-4."""
    if isinstance(expected, float):
        assert answers == pytest.approx(expected, abs=1e-4)
    elif isinstance(expected, list | tuple):
        assert len(answers) == len(expected)
        for one, other in zip(answers, expected, strict=True):
            _compare(one, other)
    else:
        assert answers == expected
