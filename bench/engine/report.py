"""The table of an engine's throughput."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_TITLES = {"prefill": "prefill: time of all prompts", "decode": "decode: time of a step"}


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print what the machine reaches, then a table a phase."""
    summary = result["summary"]
    console.print(
        f"{result['model']}, {result['dtype']} on {result['device']}, {result['threads']} threads: "
        f"the machine reaches {summary['bandwidth']['median'] / 1e9:.1f} GB/s and "
        f"{summary['matmul_rate']['median'] / 1e9:,.0f} GFLOP/s (medians of "
        f"{len(result['rounds'])} rounds)",
        highlight=False,
        soft_wrap=True,
    )
    for phase in _TITLES:
        console.print(phase_table(result, phase))
    if result["left_out"]:
        console.print(f"Left out as too large: {'; '.join(result['left_out'])}.", soft_wrap=True)


def phase_table(result: dict[str, Any], phase: str) -> Table:
    """One row a case: medians, and the shares' least and greatest."""
    table = Table(title=_TITLES[phase])
    names = ["context", "batch", "tokens/s", "ms", "MB read", "GFLOP", "of bandwidth", "of matmul"]
    for name in names:
        table.add_column(name, justify="right")
    for row in result["summary"]["rows"]:
        if row["phase"] == phase:
            table.add_row(
                str(row["context"]),
                str(row["batch"]),
                f"{row['tokens_per_second']['median']:,.1f}",
                f"{1e3 * row['seconds']['median']:,.2f}",
                f"{row['bytes']['median'] / 1e6:,.1f}",
                f"{row['flops']['median'] / 1e9:,.2f}",
                _share(row["share_of_bandwidth"]),
                _share(row["share_of_matmul"]),
            )
    return table


def _share(values: dict[str, float]) -> str:
    return f"{values['median']:.0%} ({values['least']:.0%}-{values['greatest']:.0%})"
