"""The table of a comparison of models."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .rounds import TOGETHER, alone


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print what the models take and how well they answer, then how fast they are."""
    console.print(size_table(result))
    console.print(speed_table(result))
    if rss := result["server_rss_bytes"]:
        console.print(f"The server with all of them held {rss / 1e6:.0f} MB of memory.")


def size_table(result: dict[str, Any]) -> Table:
    """One line a row of the comparison."""
    table = Table(title="memory and quality")
    with_prompt = any("prompt_cache_bytes" in model for model in result["models"].values())
    names = ["model", "disk MB", "memory MB", "KV bytes a token"]
    if with_prompt:
        names.append("prompt MB")
    for name in [*names, "ROUGE-L", "exact match"]:
        table.add_column(
            name, justify="left" if name == "model" else "right", no_wrap=name == "model"
        )
    for name, model in result["models"].items():
        quality = model["quality"] or {}
        table.add_row(
            name,
            _megabytes(model["disk_bytes"]),
            _megabytes(model["weight_bytes"]),
            "unknown" if model["kv_bytes_per_token"] is None else str(model["kv_bytes_per_token"]),
            *([_megabytes(model["prompt_cache_bytes"])] if with_prompt else []),
            *(_score(quality.get(measure)) for measure in ("rouge_l", "exact_match")),
        )
    return table


def speed_table(result: dict[str, Any]) -> Table:
    """One line a row and arm: medians over the rounds, and the ratio to the first row.

    `load` is requests at a time: to this model alone, or to every model at once. A gist's row is
    then that of models which have gists using them.
    """
    many = result["concurrency"]
    first = next(iter(result["models"]))
    arms = {
        alone(1): "1",
        alone(many): str(many),
        TOGETHER: f"{many}, all",
    }
    rounds = len(result["rounds"])
    table = Table(title=f"speed: medians of {rounds} rounds; ratio to {first} (least, greatest)")
    for name in ("load", "model", "tokens/s", "ratio", "TTFT ms", "ratio "):
        label = name in ("load", "model")
        table.add_column(name, justify="left" if label else "right", no_wrap=label)
    for arm, title in arms.items():
        for name, model in result["models"].items():
            if arm in model["speed"]:
                figures = model["speed"][arm]
                table.add_row(
                    title,
                    name,
                    _median(figures["output_throughput"]),
                    "1" if name == first else _ratio(figures["throughput_ratio"]),
                    _median(figures["ttft_ms"]),
                    "1" if name == first else _ratio(figures["ttft_ratio"]),
                )
        table.add_section()
    return table


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.4g}"


def _score(value: dict[str, float] | None) -> str:
    if value is None:
        return "not measured"
    return f"{100 * value['mean']:.1f} ± {100 * value['standard_error']:.1f}"


def _median(values: dict[str, Any] | None) -> str:
    return "unknown" if values is None else f"{values['median']:.4g}"


def _ratio(values: dict[str, Any] | None) -> str:
    if values is None:
        return "unknown"
    return f"{values['median']:.2f} ({values['least']:.2f}-{values['greatest']:.2f})"
