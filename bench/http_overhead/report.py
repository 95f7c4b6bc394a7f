"""The table of a comparison of HTTP with the engine driven directly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from .rounds import COMPETING, DIRECT, HTTP

_ARMS = {
    DIRECT: "engine driven directly",
    HTTP: "HTTP",
    COMPETING: "HTTP, client competes for the cores",
}

_COLUMNS = ("output_throughput", "processor_us", "client_processor_us", "ttft_ms")


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print both arms, then what HTTP keeps of the engine's speed, and /health."""
    summary = result["summary"]
    title = f"{result['model']}, {result['concurrency']} streams, {len(result['rounds'])} rounds"
    table = Table(title=f"{title}: median (least, greatest)")
    names = ["", "output tokens/s", "processor µs/token", "the client's", "TTFT ms"]
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for arm, label in _ARMS.items():
        table.add_row(label, *(_spread(summary[name].get(arm)) for name in _COLUMNS))
    console.print(table)
    for line in _lines(summary):
        console.print(line, highlight=False, soft_wrap=True)


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    throughput, processor = summary["throughput_ratio"], summary["processor_ratio"]
    yield (
        f"HTTP gives {_share(throughput[HTTP])} of the engine's output tokens a second, "
        f"{_share(throughput[COMPETING])} where the client competes with the server for the cores. "
        f"The engine driven directly takes {_share(processor[HTTP])} of the server's processor "
        "time a token."
    )
    for name, times in (summary["health_ms"] or {}).items():
        yield f"/health, {name}: median {times['median']:.1f} ms, p99 {times['p99']:.1f} ms"


def _share(values: dict[str, Any]) -> str:
    return f"{values['median']:.1%} ({values['least']:.1%}-{values['greatest']:.1%})"


def _spread(values: dict[str, Any] | None) -> str:
    if values is None:
        return ""
    return f"{values['median']:.4g} ({values['least']:.4g}, {values['greatest']:.4g})"
