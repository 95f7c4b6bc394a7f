"""Rounds in one row an arm, with its ratios to the other arms."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..models.quality import Labelled as Answered
from ..models.quality import scores
from .arm import Arm
from .break_even import break_even
from .load_cell import middle
from .room import Room
from .settings import Labelled, SharedPrefix
from .spread import ratios, spread

Rounds = Sequence[dict[str, Any]]


def summarise_prompts(
    rounds: Rounds, arms: Sequence[Arm], room: Room, budget: int
) -> list[dict[str, Any]]:
    """One entry a prompt: its tokens, and by arm its sizes, times, and ratios to other arms.

    `rounds` are those of `Sweep.run`; of times the median over a round's requests counts.
    """
    found = []
    for name in rounds[0]:
        mine = [done[name] for done in rounds]
        entry: dict[str, Any] = {arm.value: _arm(mine, arm, arms, room, budget) for arm in arms}
        tokens = mine[0][Arm.prefix]["compression"]["prompt_tokens"]
        found.append({"name": name, "prompt_tokens": tokens, "arms": entry})
    return found


def _arm(rounds: Rounds, arm: Arm, arms: Sequence[Arm], room: Room, budget: int) -> dict[str, Any]:
    mine = [done[arm] for done in rounds]
    kept = mine[0]["compression"]
    earlier = arms[: arms.index(arm)]
    return {
        "slots": kept["slots"] if kept else 0,
        "cache_bytes": kept["cache_bytes"] if kept else 0,
        "kept_bytes": room.kept_bytes(kept["slots"]) if kept else 0,
        "prompts_in_budget": room.prompts_in(budget, kept["slots"]) if kept else None,
        "registration_s": spread(done["registration_s"] for done in mine) if kept else None,
        "levels": {level: _level(rounds, arm, earlier, level) for level in mine[0]["cells"]},
        "break_even": {base.value: _break_even(rounds, arm, base) for base in earlier},
    }


def _level(rounds: Rounds, arm: Arm, earlier: Sequence[Arm], level: str) -> dict[str, Any]:
    cells = [done[arm]["cells"][level] for done in rounds]
    if "left_out" in cells[0]:
        return {"left_out": cells[0]["left_out"]}
    figures: dict[str, Any] = {}
    for measure in ("output_throughput", "ttft_ms", "tpot_ms", "e2el_ms"):
        ours = [_figure(cell, measure) for cell in cells]
        figures[measure] = spread(ours)
        for base in earlier:
            theirs = [_figure(done[base]["cells"][level], measure) for done in rounds]
            figures[f"{measure}_to_{base.value}"] = ratios(ours, theirs)
    return figures


def _figure(cell: dict[str, Any], measure: str) -> float | None:
    """A cell's one figure: of samples the median. None where it was left out."""
    if "left_out" in cell:
        return None
    value = cell[measure]
    return middle(cell, measure) if isinstance(value, list) else float(value)


def _break_even(rounds: Rounds, arm: Arm, base: Arm) -> dict[str, Any] | None:
    """Of medians over the rounds, one request at a time; None where nothing was measured."""
    costs = [done[arm]["registration_s"] - done[base]["registration_s"] for done in rounds]
    pairs = [
        [_figure(done[which]["cells"]["1"], "e2el_ms") for which in (arm, base)] for done in rounds
    ]
    saved = [(theirs - ours) / 1e3 for ours, theirs in pairs if ours and theirs]
    if len(saved) < len(rounds):
        return None
    return {
        "registration_s": median(costs),
        "saved_s": median(saved),
        "requests": break_even(median(costs), median(saved)),
        "requests_by_round": [break_even(*pair) for pair in zip(costs, saved, strict=True)],
    }


def summarise_shared(
    shared: dict[str, Any], room: Room, settings: SharedPrefix | None
) -> dict[str, Any]:
    """Throughput and bytes of both arms, and what the gist's are to the full prefix's."""
    assert settings is not None
    arms: dict[str, Any] = {}
    for name, made in shared["registered"].items():
        slots = [size["slots"] for size in made["compression"]]
        cells = [done[name] for done in shared["rounds"]]
        arms[name] = {
            "cache_bytes": sum(size["cache_bytes"] for size in made["compression"]),
            "kept_bytes": sum(map(room.kept_bytes, slots)),
            "registration_s": sum(made["registration_s"]),
            "output_throughput": spread(cell["output_throughput"] for cell in cells),
            "ttft_ms": spread(middle(cell, "ttft_ms") for cell in cells),
            "tpot_ms": spread(middle(cell, "tpot_ms") for cell in cells),
        }
    gist, prefix = arms[Arm.gist], arms[Arm.prefix]
    for measure in ("output_throughput", "ttft_ms", "tpot_ms"):
        gist[f"{measure}_ratio"] = ratios(gist[measure]["rounds"], prefix[measure]["rounds"])
    tokens = [size["prompt_tokens"] for size in shared["registered"]["prefix"]["compression"]]
    return {
        "prompts": settings.prompts,
        "prompt_tokens": tokens,
        "requests": settings.prompts * settings.requests,
        "concurrency": settings.concurrency,
        "arms": arms,
        "cache_bytes_ratio": prefix["cache_bytes"] / gist["cache_bytes"],
        "kept_bytes_ratio": prefix["kept_bytes"] / gist["kept_bytes"],
    }


def summarise_quality(
    answers: dict[str, list[str]], labelled: Sequence[Labelled]
) -> dict[str, Any]:
    """Exact match and ROUGE-L of every arm, and how often it answers as the full prompt does."""
    rows = [Answered(row.input, row.expected) for row in labelled]
    full = answers[Arm.none]
    return {
        "examples": len(rows),
        "prompts": len({row.prompt for row in labelled}),
        "arms": {
            arm: scores(texts, rows)
            | {"same_as_full_prompt": _share(a == b for a, b in zip(texts, full, strict=True))}
            for arm, texts in answers.items()
        },
        "fidelity": None,
    }


def _share(hits: Any) -> float:
    counted = [bool(hit) for hit in hits]
    return sum(counted) / len(counted)
