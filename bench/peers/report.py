"""The tables of a comparison of servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.table import Table

_BUSY_CLIENT = 0.8
_TITLES = {
    "output_throughput": "tokens/s",
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "processor_ms_per_token": "CPU ms/token",
}


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print speed, ratios, memory and versions, then what a reader must know besides."""
    console.print(speed_table(result))
    console.print(ratio_table(result))
    console.print(server_table(result))
    for remark in remarks(result):
        console.print(remark, highlight=False, markup=False, soft_wrap=True)


def speed_table(result: dict[str, Any]) -> Table:
    """One row a load and server: medians over the rounds."""
    work, model = result["workload"], result["model"]
    title = (
        f"{model['name']}, {model['dtype']}, {result['threads']} threads, "
        f"{work['input_tokens']} + {work['output_tokens']} tokens; medians"
    )
    return _table(title, result["summary"], "", _median)


def ratio_table(result: dict[str, Any]) -> Table:
    """One row a load and peer: our figure divided by its own, median of the rounds and spread."""
    ours = result["ours"]
    entries = [entry for entry in result["summary"] if entry["server"] != ours]
    title = f"{ours} / other, round by round: median (least-greatest)"
    return _table(title, entries, "_ratio", _ratio)


def _table(
    title: str, entries: Sequence[dict[str, Any]], suffix: str, shown: Callable[[Any], str]
) -> Table:
    table = Table(title=title)
    table.add_column("load", no_wrap=True)
    table.add_column("server")
    for name in _TITLES.values():
        table.add_column(name, justify="right", no_wrap=True)
    for entry, following in zip_longest(entries, entries[1:]):
        table.add_row(
            str(entry["concurrency"]),
            entry["server"],
            *(shown(entry[f"{measure}{suffix}"]) for measure in _TITLES),
            end_section=bool(following) and following["concurrency"] != entry["concurrency"],
        )
    return table


def server_table(result: dict[str, Any]) -> Table:
    """One row a server."""
    table = Table(title="servers")
    for name in ("server", "version", "peak RSS MB"):
        table.add_column(name, justify="right" if "RSS" in name else "left")
    for name, server in result["servers"].items():
        peak = server["peak_rss_bytes"]
        table.add_row(name, server["version"], "unknown" if peak is None else f"{peak / 1e6:.0f}")
    return table


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """One line for everything that is missing or puts a figure in doubt."""
    for name, reason in result["missing"].items():
        yield f"{name} takes no part: {reason}"
    for found in result["measurements"]:
        if "refused" in found:
            place = f"round {found['round']}, {found['concurrency']} at a time"
            yield f"{place} is left out: {found['refused']}."
    busiest = max(
        (
            server["client_processor_share"]
            for found in result["measurements"]
            for server in found.get("servers", {}).values()
        ),
        default=0.0,
    )
    if busiest > _BUSY_CLIENT:
        yield f"This client was busy up to {busiest:.0%} of the time; it may limit the figures."


def _median(values: dict[str, Any] | None) -> str:
    return "unknown" if values is None else f"{values['median']:.4g}"


def _ratio(values: dict[str, Any] | None) -> str:
    if values is None:
        return "unknown"
    return f"{values['median']:.2f}\n({values['least']:.2f}-{values['greatest']:.2f})"
