"""The table of a comparison of HTTP with the engine driven directly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from .rounds import DIRECT, HTTP

_ARMS = {DIRECT: "engine driven directly", HTTP: "HTTP"}


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print both arms, then what HTTP keeps of the engine's speed, and /health."""
    summary = result["summary"]
    title = f"{result['model']}, {result['concurrency']} streams, {len(result['rounds'])} rounds"
    table = Table(title=f"{title}: median (least, greatest)")
    names = ["", "output tokens/s", "processor µs/token", "TTFT ms"]
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for arm, label in _ARMS.items():
        cells = [summary[name][arm] for name in ("output_throughput", "processor_us", "ttft_ms")]
        table.add_row(label, *map(_spread, cells))
    table.add_row("HTTP's client", "", _spread(summary["processor_us"]["client"]), "")
    console.print(table)
    for line in _lines(summary):
        console.print(line, highlight=False, soft_wrap=True)


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"HTTP gives {_share(summary['throughput_ratio'])} of the engine's output tokens a second; "
        f"the engine driven directly takes {_share(summary['processor_ratio'])} of the server's "
        "processor time a token."
    )
    for name, times in (summary["health_ms"] or {}).items():
        yield f"/health, {name}: median {times['median']:.1f} ms, p99 {times['p99']:.1f} ms"


def _share(values: dict[str, Any]) -> str:
    return f"{values['median']:.1%} ({values['least']:.1%}-{values['greatest']:.1%})"


def _spread(values: dict[str, Any]) -> str:
    return f"{values['median']:.4g} ({values['least']:.4g}, {values['greatest']:.4g})"
