"""The table of ``policy_quality``'s figures."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

ARM_NAMES = {
    "full": "full prompt",
    "gist": "gist",
    "untrained": "untrained gist",
    "truncated": "truncated prompt, equal bytes",
    "none": "no prompt",
}


def print_report(figures: dict[str, Any], console: Console | None = None) -> None:
    """Print one table: a row an arm, a column a split, exact match in percent."""
    splits = figures["splits"]
    table = Table(title="Exact match of the whole reply, on policies never seen in training")
    table.add_column("")
    for name, split in splits.items():
        table.add_column(
            f"{name.replace('_', ' ')}\n{split['policies']} policies, "
            f"{split['compression_mean']:.1f}x smaller",
            justify="right",
        )
    for arm, title in ARM_NAMES.items():
        row = [split["arms"][arm]["exact_match"] for split in splits.values()]
        table.add_row(title, *(f"{value:.1%}" for value in row))
    (console or Console()).print(table)
