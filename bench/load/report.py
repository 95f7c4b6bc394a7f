"""The table of a load test, and what a reader of it must know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

# Shares and ratios beyond which a figure is spoken of.
_AGREE_WITHIN = 0.02
_BUSY_CLIENT = 0.8
_TOKENS_PER_CHUNK = 1.1
_LATE_MS = 10.0
_ERRORS_SHOWN = 3

LATENCIES = ("ttft", "tpot", "itl", "e2el")


def load_name(load: dict[str, Any]) -> str:
    """A point of a sweep for people."""
    if load["loop"] == "closed":
        return f"{load['concurrency']} at a time"
    return f"{load['rate']:g} a second"


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print throughput and latencies of all points, then remarks."""
    console.print(throughput_table(result))
    console.print(latency_table(result))
    for remark in remarks(result):
        console.print(remark, highlight=False, markup=False, soft_wrap=True)


def throughput_table(result: dict[str, Any]) -> Table:
    """One row a point."""
    table = Table(title=f"{result['model']} at {result['url']} ({result['endpoint']})")
    with_goodput = result["slo_ms"] is not None
    names = ["load", "requests", "failed", "seconds", "requests/s", "output tokens/s"]
    for name in [*names, *(["goodput/s"] if with_goodput else [])]:
        table.add_column(name, justify="left" if name == "load" else "right")
    for point in result["points"]:
        table.add_row(
            load_name(point["load"]),
            str(point["requests"]),
            f"[red]{point['failed']}[/]" if point["failed"] else "0",
            f"{point['duration_s']:.1f}",
            f"{point['request_throughput']:.2f}",
            _figure(point["output_throughput"]),
            *([_figure(point["goodput"])] if with_goodput else []),
        )
    return table


def latency_table(result: dict[str, Any]) -> Table:
    """One row a point and measure, in milliseconds."""
    statistics = ("mean", "median", "p95", "p99")
    table = Table(title="milliseconds")
    for name in ("load", "measure", *statistics):
        table.add_column(name, justify="left" if name in ("load", "measure") else "right")
    for point in result["points"]:
        for measure in LATENCIES:
            values = point[f"{measure}_ms"]
            if values is not None:
                figures = [_figure(values[name]) for name in statistics]
                table.add_row(load_name(point["load"]), measure.upper(), *figures)
        table.add_section()
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if value < 10_000 else f"{value:,.0f}"


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """One line for all that puts a figure in doubt, failures first."""
    for point in result["points"]:
        name = load_name(point["load"])
        yield from _failures(name, point["errors"])
    if not result["tells_usage"]:
        yield "The server tells no usage: tokens are not known, and lengths of texts were guessed."
    if not result["ignore_eos"]:
        yield "Answers may end early: the server was not asked to ignore the end token, or refuses."
    if not result["client"]["keep_alive"]:
        yield (
            "The server closed connections that it had promised to keep: since then every request "
            "had one of its own, and TTFT includes opening it."
        )
    for point in result["points"]:
        yield from _point_remarks(point)
    if registered := result["registered"]:
        yield (
            f"{len(registered['slots'])} prompts registered as {registered['method']}: "
            f"{sum(registered['prompt_tokens'])} tokens in "
            f"{registered['cache_bytes'] / 1e6:.3g} MB "
            f"({registered['uncompressed_bytes'] / 1e6:.3g} MB uncompressed)."
        )


def _failures(name: str, errors: dict[str, int]) -> Iterator[str]:
    shown = list(errors.items())[:_ERRORS_SHOWN]
    for error, count in shown:
        yield f"{name}: {count} failed: {error}"
    if len(errors) > len(shown):
        rest = sum(errors.values()) - sum(count for _, count in shown)
        yield f"{name}: {rest} more failed, of {len(errors) - len(shown)} other kinds."


def _point_remarks(point: dict[str, Any]) -> Iterator[str]:
    name = load_name(point["load"])
    if point["answers_of_other_length"]:
        yield (
            f"{name}: {point['answers_of_other_length']} answers had another length than was asked "
            f"for ({point['output_tokens']} tokens of {point['wanted_tokens']})."
        )
    if (point["tokens_per_chunk"] or 0) > _TOKENS_PER_CHUNK:
        yield (
            f"{name}: {point['tokens_per_chunk']:.2f} tokens a chunk; ITL is the time between "
            "chunks, TPOT that of a token."
        )
    if point["client_processor_share"] > _BUSY_CLIENT:
        yield (
            f"{name}: this client was busy {point['client_processor_share']:.0%} of the time; it "
            "may be what limits the figures."
        )
    if point["load"]["loop"] == "open" and point["late_ms"]["p99"] > _LATE_MS:
        yield f"{name}: requests were sent up to {point['late_ms']['p99']:.0f} ms (p99) late."
    for what, counted in (point["server"] or {}).items():
        ratio = counted["ratio"]
        if ratio is not None and abs(ratio - 1) > _AGREE_WITHIN:
            yield f"{name}: {what.replace('_', ' ')}: {ratio:.3f} times what the server counted."
