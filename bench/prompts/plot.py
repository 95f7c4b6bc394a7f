"""The picture of a comparison: bytes, TTFT and throughput over the prompt's length, by arm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arm import Arm
from .report import size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {
    Arm.none: {"color": "0.5", "marker": "s"},
    Arm.prefix: {"color": "tab:blue", "marker": "o"},
    Arm.gist: {"color": "tab:orange", "marker": "^"},
}


def plot_prompts(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a result file as PNG."""
    draw(result).savefig(path, dpi=120)


def draw(result: dict[str, Any]) -> Figure:
    """One line an arm in each panel; bars from the least to the greatest of the rounds."""
    from matplotlib.figure import Figure

    levels = [str(level) for level in result["workload"]["concurrencies"]]
    shown = levels[:: max(1, len(levels) - 1)]
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    memory, ttft, *speeds = figure.subplots(2, 2).flat
    prompts = sorted(result["prompts"], key=lambda prompt: prompt["prompt_tokens"])
    for arm in map(Arm, result["arms"]):
        if arm is not Arm.none:
            _line(memory, prompts, arm, lambda found: found["kept_bytes"])
        _line(ttft, prompts, arm, lambda found: found["levels"]["1"].get("ttft_ms"))
        for axis, level in zip(speeds, shown, strict=True):
            _line(
                axis,
                prompts,
                arm,
                lambda found, level=level: found["levels"][level].get("output_throughput"),
            )
    _finish(memory, prompts, "cache kept for a prompt", base=2)
    memory.yaxis.set_major_formatter(lambda value, _: size(value))
    _finish(ttft, prompts, "TTFT (ms), one request at a time", base=2)
    for axis, level in zip(speeds, shown, strict=True):
        _finish(axis, prompts, f"output tokens/s, {level} at a time")
    ttft.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    handles, labels = ttft.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=len(labels),
        frameon=False,
        title=result["model"]["name"],
    )
    return figure


def _line(axis: Any, prompts: list[dict[str, Any]], arm: Arm, read: Any) -> None:
    """A number, or a spread with its bars, over the prompts that have one."""
    known = [(p["prompt_tokens"], read(p["arms"][arm])) for p in prompts]
    known = [(tokens, value) for tokens, value in known if value is not None]
    if not known:
        return
    spreads = [
        v if isinstance(v, dict) else {"median": v, "least": v, "greatest": v} for _, v in known
    ]
    middles = [found["median"] for found in spreads]
    bars = [
        [found["median"] - found["least"] for found in spreads],
        [found["greatest"] - found["median"] for found in spreads],
    ]
    axis.errorbar(
        [tokens for tokens, _ in known],
        middles,
        yerr=bars,
        label=arm.label,
        capsize=3,
        **_STYLES[arm],
    )


def _finish(axis: Any, prompts: list[dict[str, Any]], title: str, *, base: int = 0) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    tokens = sorted({prompt["prompt_tokens"] for prompt in prompts})
    axis.set_xscale("log", base=2)
    axis.set_xticks(tokens, [f"{count:,}" for count in tokens], rotation=30)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("tokens of the prompt")
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.3)
    if base:
        axis.set_yscale("log", base=base)
        axis.yaxis.set_major_locator(LogLocator(base=base, numticks=8))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0)
