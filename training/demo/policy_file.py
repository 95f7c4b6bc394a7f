"""Policies as gist training data: JSONL with one policy and its turns a line."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tqdm.auto import tqdm

from .policy import PolicyMix, sample_policy, sample_turn


def write_policies(path: Path, mix: PolicyMix, seed: str, policies: int, turns: int) -> None:
    """Write ``policies`` lines {"prompt", "turns": [{"input", "output"}]}, drawn by ``seed``."""
    rng = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for _ in tqdm(range(policies), desc=f"writing {path.name}", mininterval=1):
            policy = sample_policy(rng, mix)
            drawn = [sample_turn(rng, policy, mix) for _ in range(turns)]
            row = {
                "prompt": policy.text,
                "turns": [{"input": turn.message, "output": turn.reply} for turn in drawn],
            }
            file.write(json.dumps(row) + "\n")
    partial.replace(path)
