"""Continual pre-training against training from scratch: the arms of arXiv 2403.08763 on any texts.

A small model is trained on old text, then updated with new text in several ways; the union of both
from scratch is what an update has to reach. Every arm is a stage of `gistserve train continual`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..training.continual import train_continual
from ..training.continual.config import ContinualConfig
from ..training.continual.source import Source, ValidationSource
from ..training.continual.stage import STAGE_NAME, Stage
from ..training.continual.tokenizer import train_tokenizer
from ..training.run_log import read_metrics
from .continual_text import split_text

REPLAY = (0.01, 0.05, 0.25, 0.5)
REPEATED = ("old only", "0% replay", "union from scratch")
"""Arms that are run with every seed, beside the best replay; the others with the first one."""


@dataclass(frozen=True)
class Setup:
    """Sizes of an experiment. tokens: of the first stage and of each update; the union has twice.

    infinite_replay: share of replay in the update that goes on with an infinite schedule.
    """

    tokens: int = 250_000
    hidden_size: int = 96
    layers: int = 2
    heads: int = 3
    vocabulary: int = 1024
    sequence_length: int = 128
    batch_size: int = 16
    learning_rate: float = 4e-3
    infinite_replay: float = 0.05
    evaluations: int = 4
    eval_rows: int = 80
    seeds: int = 3


@dataclass(frozen=True)
class Arm:
    """One way to get a model of old and new text.

    start: the arm whose model it begins with, None for a new model. settings: of its stage.
    """

    name: str
    start: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    old_share: float = 0.0
    union: bool = False


def arms(setup: Setup) -> list[Arm]:
    """All arms; each after the one it starts from."""
    low = {"schedule": "constant", "learning_rate": setup.learning_rate / 10, "warmup": 0.0}
    infinite = {"schedule": "infinite", "anneal": 0.15}
    return [
        Arm("old only", None, old_share=1.0),
        Arm("union from scratch", None, union=True),
        Arm("constant minimum", "old only", low),
        Arm("0% replay", "old only"),
        *(Arm(f"{ratio:.0%} replay", "old only", old_share=ratio) for ratio in REPLAY),
        Arm("old only, infinite", None, infinite, old_share=1.0),
        Arm("infinite", "old only, infinite", infinite, old_share=setup.infinite_replay),
    ]


class ContinualBench:
    """Runs the arms in `work`; what is finished there is not run again, what is begun is resumed.

    old, new: where the texts come from. ValueError where `work` has runs of another setup.
    """

    def __init__(self, work: Path, old: Source, new: Source, setup: Setup) -> None:
        self._work = work
        self._setup = setup
        self._arms = {arm.name: arm for arm in arms(setup)}
        self._data = work / "data"
        self._record_setup({**asdict(setup), "old": old.path, "new": new.path})
        if not (self._data / "tokenizer").exists():
            self._prepare(old, new)

    def run(self, names: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Every arm with the first seed, then the repeated ones; the figures after each run.

        names: only these arms, and those they start from.
        """
        chosen = self._chosen(names)
        runs: list[dict[str, Any]] = []
        for arm in chosen:
            runs.append(self._run(arm, 0))
            yield self._figures(runs)
        repeated = [arm for arm in chosen if arm.name in (*REPEATED, best_replay(runs))]
        for arm, seed in product(repeated, range(1, self._setup.seeds)):
            runs.append(self._run(arm, seed))
            yield self._figures(runs)

    def _chosen(self, names: Sequence[str]) -> list[Arm]:
        if unknown := sorted(set(names) - set(self._arms)):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(self._arms)}")
        needed = {self._arms[name].start for name in names} | set(names)
        return [arm for arm in self._arms.values() if not names or arm.name in needed]

    def _figures(self, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"setup": asdict(self._setup), "summary": list(summarise(runs)), "runs": [*runs]}

    def _record_setup(self, setup: dict[str, Any]) -> None:
        """Keep the settings in `work`; ValueError where its runs were made with others."""
        del setup["seeds"]
        path = self._work / "setup.json"
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if other := [name for name in setup if setup[name] != earlier.get(name)]:
                raise ValueError(
                    f"the runs in {self._work} were made with other {', '.join(other)}: choose "
                    "another folder"
                )
        self._work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setup, indent=2), encoding="utf-8")

    def _prepare(self, old: Source, new: Source) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        for name, source in (("old", old), ("new", new)):
            split_text(source, self._data / f"{name}.jsonl", self._data / f"{name}-held-out.jsonl")
        sources = [self._source("old", 0), self._source("new", 0)]
        train_tokenizer(sources, self._setup.vocabulary).save_pretrained(self._data / "tokenizer")

    def _run(self, arm: Arm, seed: int) -> dict[str, Any]:
        output = self._folder(arm.name, seed)
        if not (output / STAGE_NAME).exists():
            begun = any((output / "checkpoints").glob("checkpoint-*[0-9]"))
            train_continual(self._config(arm, seed), resume=begun)
        stage = Stage.load(output)
        assert stage is not None
        return {
            "arm": arm.name,
            "seed": seed,
            "replay": stage.replay_ratio,
            "schedule": stage.schedule,
            "parameters": stage.parameters,
            "tokens": stage.tokens,
            "tokens_by_source": stage.tokens_by_source,
            "training_seconds": stage.seconds,
            "final": stage.validation,
            "curve": read_metrics(output),
        }

    def _config(self, arm: Arm, seed: int) -> ContinualConfig:
        setup = self._setup
        steps = round(setup.tokens / (setup.batch_size * setup.sequence_length))
        steps *= 2 if arm.union else 1
        settings: dict[str, Any] = {
            **self._model(arm, seed),
            **self._sources(arm, seed),
            "learning_rate": setup.learning_rate,
            "max_steps": steps,
            "eval_steps": max(1, steps // setup.evaluations),
            "save_steps": max(1, steps // 2),
        }
        return ContinualConfig(
            output_dir=str(self._folder(arm.name, seed)),
            validation=[
                ValidationSource(
                    name=name, path=str(self._data / f"{name}-held-out.jsonl"), group=name
                )
                for name in ("old", "new")
            ],
            sequence_length=setup.sequence_length,
            batch_size=setup.batch_size,
            micro_batch_size=setup.batch_size,
            eval_rows=setup.eval_rows,
            logging_steps=20,
            save_total_limit=1,
            optimizer="muon",
            weight_decay=0.01,
            bf16=True,
            seed=seed,
            token_cache=str(self._work / "tokens"),
            tensorboard=False,
            plot=False,
            device="cpu",
            **(settings | arm.settings),
        )

    def _model(self, arm: Arm, seed: int) -> dict[str, Any]:
        if arm.start is not None:
            return {"start_from": str(self._folder(arm.start, seed))}
        setup = self._setup
        sizes = {
            "model_type": "qwen3",
            "hidden_size": setup.hidden_size,
            "num_hidden_layers": setup.layers,
            "num_attention_heads": setup.heads,
            "num_key_value_heads": setup.heads,
            "head_dim": setup.hidden_size // setup.heads,
            "intermediate_size": setup.hidden_size * 5 // 2,
            "max_position_embeddings": setup.sequence_length,
            "tie_word_embeddings": True,
        }
        return {"new_model": sizes, "tokenizer": str(self._data / "tokenizer")}

    def _sources(self, arm: Arm, seed: int) -> dict[str, Any]:
        old, new = self._source("old", seed), self._source("new", seed)
        if arm.union:
            return {"new": [old, new]}
        if arm.start is None:
            return {"new": [old]}
        return {"new": [new], "replay": [old], "replay_ratio": arm.old_share}

    def _source(self, name: str, seed: int) -> Source:
        return Source(name=name, path=str(self._data / f"{name}.jsonl"), share=1.0, order_seed=seed)

    def _folder(self, arm: str, seed: int) -> Path:
        name = arm.replace("%", "pct").replace(",", "").replace(" ", "-")
        return self._work / "runs" / f"{name}-seed{seed}"


def best_replay(runs: Sequence[dict[str, Any]]) -> str | None:
    """The replaying arm with the lowest average loss in the first seed, None without one."""
    names = {f"{ratio:.0%} replay" for ratio in REPLAY}
    replayed = [run for run in runs if run["arm"] in names and run["seed"] == 0]
    best = min(replayed, key=lambda run: run["final"]["average"], default=None)
    return None if best is None else str(best["arm"])


def summarise(runs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row an arm: its final losses over the seeds, tokens and time of its own training."""
    for name in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == name]
        row: dict[str, Any] = {"arm": name, "seeds": len(own), "tokens": own[0]["tokens"]}
        row["training_seconds"] = mean(run["training_seconds"] for run in own)
        for key in ("old", "new", "average"):
            values = [run["final"][key] for run in own]
            row[key] = mean(values)
            row[f"{key}_std"] = stdev(values) if len(values) > 1 else None
        yield row
