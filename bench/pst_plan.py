"""Which runs compare PST with its baselines, and with which settings."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..training.pst.config import PSTConfig

TaskName = Literal["sst2", "trec", "e2e"]
Arm = Literal["dense", "map", "mvp", "pst", "pst_balanced", "mvp_embeddings", "pst_embeddings"]

TASKS: tuple[TaskName, ...] = ("sst2", "trec", "e2e")
ARMS: tuple[Arm, ...] = (
    *("dense", "mvp", "pst", "map", "pst_balanced"),
    *("mvp_embeddings", "pst_embeddings"),
)
SEEDS = (1, 2, 3)

_METHODS: dict[Arm, dict[str, Any]] = {
    "dense": {"method": "dense"},
    "map": {"method": "magnitude"},
    "mvp": {"method": "movement"},
    "pst": {"method": "pst"},
    "pst_balanced": {"method": "pst", "pattern": "balanced"},
    # Not the papers', which freeze embeddings: the small encoder knows little of the tasks' words.
    "mvp_embeddings": {"method": "movement", "also_train": ["tok_embeddings.weight"]},
    "pst_embeddings": {"method": "pst", "also_train": ["tok_embeddings.weight"]},
}

LEARNING_RATE = 3e-3
"""Better than 1e-3 for movement pruning and than 1e-2 for PST, on TREC's validation share with
another seed (100); the other arms and tasks take it over."""


@dataclass(frozen=True)
class Run:
    """One training run; `sparsity` is 0 for the dense arm."""

    task: TaskName
    arm: Arm
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.arm}-{self.sparsity:g}-{self.seed}"

    def config(self, data: Path, bases: Path, output: Path) -> PSTConfig:
        """The run's settings, on data sets in `data` and base models in `bases`."""
        base = "decoder" if self.task == "e2e" else "encoder"
        settings: dict[str, Any] = {
            "model": str(bases / base),
            "output_dir": str(output),
            "seed": self.seed,
            "sparsity": self.sparsity,
            "learning_rate": LEARNING_RATE,
            **_COMMON,
            **_METHODS[self.arm],
            **_TASK_SETTINGS[self.task],
        }
        for name in ("train_data", "validation_data", "test_data"):
            if name in settings:
                settings[name] = str(data / settings[name])
        return PSTConfig(**settings)


_COMMON: dict[str, Any] = {
    "batch_size": 64,
    "eval_batch_size": 128,
    "bf16": True,
    "attn_implementation": "eager",
    "warmup": 0.06,
    "logging_steps": 50,
    "save_steps": 100_000,
    "tensorboard": False,
    "measure_memory": True,
    "device": "cpu",
    "trainer": {"train_sampling_strategy": "group_by_length", "disable_tqdm": True},
}

_TASK_SETTINGS: dict[TaskName, dict[str, Any]] = {
    "sst2": {
        "task": "classification",
        "train_data": "sst2_trec/sst2_train.jsonl",
        "validation_data": "sst2_trec/sst2_dev.jsonl",
        "test_data": "sst2_trec/sst2_test.jsonl",
        "max_tokens": 64,
        "num_train_epochs": 3,
        "eval_steps": 54,
    },
    "trec": {
        "task": "classification",
        "train_data": "sst2_trec/trec_train.jsonl",
        "test_data": "sst2_trec/trec_test.jsonl",
        "max_tokens": 64,
        "num_train_epochs": 8,
        "eval_steps": 88,
    },
    # The published training file is not at hand: trained on dev, of which a tenth of the inputs is
    # held out to select on, and tested on test, whose inputs are others.
    "e2e": {
        "task": "causal",
        "train_data": "e2e/dev.jsonl",
        "test_data": "e2e/test.jsonl",
        "max_tokens": 128,
        "max_new_tokens": 64,
        "num_train_epochs": 2,
        "label_smoothing": 0.1,
        "eval_steps": 33,
        "select_by": "loss",
    },
}


def planned_runs() -> Iterator[Run]:
    """All runs, the most telling first, so that an unfinished comparison is a fair one too."""
    classes: tuple[TaskName, ...] = ("sst2", "trec")
    texts: tuple[TaskName, ...] = ("e2e",)
    first, *others = SEEDS
    yield from _at_90_percent(classes, first)
    yield from _at_90_percent(texts, first)
    for tasks in (classes, texts):
        for seed in others:
            yield from _at_90_percent(tasks, seed)
    for task in TASKS:
        for arm in ARMS:
            if arm != "dense" and not _trains_embeddings(arm):
                yield Run(task, arm, 0.5, first)


def _at_90_percent(tasks: Iterable[TaskName], seed: int) -> Iterator[Run]:
    for task in tasks:
        for arm in ARMS:
            if task == "sst2" or not _trains_embeddings(arm):
                yield Run(task, arm, 0.0 if arm == "dense" else 0.9, seed)


def _trains_embeddings(arm: Arm) -> bool:
    return "also_train" in _METHODS[arm]
