"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from .arm import Arm

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def print_report(result: dict[str, Any], console: Console) -> None:
    """Print what the arms take and how fast they are, their ratios, and how well gists answer."""
    console.print(arms_table(result))
    console.print(ratio_table(result))
    if Arm.gist in result["arms"]:
        console.print(gist_table(result))
    for remark in remarks(result):
        console.print(remark, highlight=False, markup=False, soft_wrap=True)


def arms_table(result: dict[str, Any]) -> Table:
    """One row a prompt and arm."""
    levels = [str(level) for level in result["workload"]["concurrencies"]]
    budget = size(result["budget_bytes"])
    rounds = result["workload"]["rounds"]
    table = Table(
        title=f"{result['model']['name']}: medians over {rounds} round(s); output tokens/s at so "
        "many requests at a time"
    )
    table.add_column("prompt\ntokens", justify="right")
    table.add_column("arm", no_wrap=True)
    names = ["bytes\nkept", f"fit in\n{budget}", "register\ns", "TTFT\nms"]
    for name in [*names, *(f"tokens/s\n{level}" for level in levels), "pays after\nrequests"]:
        table.add_column(name, justify="right")
    for prompt in result["prompts"]:
        for name, arm in prompt["arms"].items():
            fit = arm["prompts_in_budget"]
            table.add_row(
                prompt_name(result, prompt),
                Arm(name).label,
                size(arm["kept_bytes"]),
                "-" if fit is None else f"{fit:,}",
                figure(arm["registration_s"]),
                figure(arm["levels"]["1"].get("ttft_ms")),
                *(figure(arm["levels"][level].get("output_throughput")) for level in levels),
                pays_after(arm["break_even"].get(Arm.none)),
            )
        table.add_section()
    return table


def ratio_table(result: dict[str, Any]) -> Table:
    """One row a prompt and pair of arms."""
    levels = [str(level) for level in result["workload"]["concurrencies"]]
    table = Table(
        title="ratios, pair by pair: median (least-greatest) over the rounds; more tokens/s and "
        "less TTFT are better"
    )
    table.add_column("prompt\ntokens", justify="right")
    table.add_column("arm / other", no_wrap=True)
    for name in ["TTFT", *(f"tokens/s\n{level}" for level in levels), "pays after\nrequests"]:
        table.add_column(name, justify="right", no_wrap=True)
    for prompt in result["prompts"]:
        for name, arm in prompt["arms"].items():
            for base, even in arm["break_even"].items():
                table.add_row(
                    prompt_name(result, prompt),
                    f"{Arm(name).label} / {Arm(base).label}",
                    ratio(arm["levels"]["1"].get(f"ttft_ms_to_{base}")),
                    *(
                        ratio(arm["levels"][level].get(f"output_throughput_to_{base}"))
                        for level in levels
                    ),
                    pays_after(even),
                )
        table.add_section()
    return table


def gist_table(result: dict[str, Any]) -> Table:
    """What a gist saves under many shared prompts, and what it costs in quality."""
    shared, quality = result["shared"], result["quality"]
    table = Table(title="gist against full-prefix cache, on the same server")
    for name in ("", "full-prefix cache", "gist", "gist / full-prefix cache"):
        table.add_column(name, justify="left" if not name else "right")
    if shared:
        _add_shared(table, shared)
        table.add_section()
    if quality:
        _add_quality(table, quality)
    else:
        why = "untrained" if not result["model"]["trained"] else "no labelled inputs"
        table.add_row("quality of the gists", "", f"not measured: {why}", "")
    return table


def _add_shared(table: Table, shared: dict[str, Any]) -> None:
    prefix, gist = shared["arms"][Arm.prefix], shared["arms"][Arm.gist]
    tokens = sum(shared["prompt_tokens"]) / len(shared["prompt_tokens"])
    table.add_row(
        f"[bold]{shared['prompts']} prompts of {tokens:,.0f} tokens, "
        f"{shared['concurrency']} requests at a time[/]"
    )
    times = {"output_throughput": "output tokens/s", "ttft_ms": "TTFT, ms", "tpot_ms": "TPOT, ms"}
    for measure, title in times.items():
        table.add_row(
            title, figure(prefix[measure]), figure(gist[measure]), ratio(gist[f"{measure}_ratio"])
        )
    for measure, title in (("cache_bytes", "keys and values"), ("kept_bytes", "in whole blocks")):
        table.add_row(
            f"cache, {title}",
            size(prefix[measure]),
            size(gist[measure]),
            f"{shared[f'{measure}_ratio']:.1f} times fewer",
        )


def _add_quality(table: Table, quality: dict[str, Any]) -> None:
    prefix, gist = quality["arms"][Arm.prefix], quality["arms"][Arm.gist]
    table.add_row(f"[bold]{quality['examples']} labelled inputs, {quality['prompts']} prompt(s)[/]")
    table.add_row("exact match", _score(prefix["exact_match"]), _score(gist["exact_match"]))
    same = (f"{100 * arm['same_as_full_prompt']:.1f}%" for arm in (prefix, gist))
    table.add_row("same answer as with no cache", *same)
    if found := quality["fidelity"]:
        forced = found["gist"]
        mean, p95, most = (f"{forced[f'kl_{name}']:.4f}" for name in ("mean", "p95", "max"))
        table.add_row("KL to the full prompt, nats a token", "0: the same cache", mean)
        table.add_row("KL: p95; greatest", "", f"{p95}; {most}")
        table.add_row("share of KL(no prompt) recovered", "", f"{forced['recovered_fraction']:.1%}")


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """One line for every measurement that was left out, and why."""
    for prompt in result["prompts"]:
        for name, arm in prompt["arms"].items():
            for level, figures in arm["levels"].items():
                if reason := figures.get("left_out"):
                    tokens = f"{prompt_name(result, prompt)} tokens"
                    yield (
                        f"{tokens}, {Arm(name).label}, {level} at a time: left out, it {reason}."
                    )


def prompt_name(result: dict[str, Any], prompt: dict[str, Any]) -> str:
    """A synthetic prompt's tokens; a prompt of the user's own has its name in front."""
    tokens = f"{prompt['prompt_tokens']:,}"
    return tokens if result["synthetic"] else f"{prompt['name']}: {tokens}"


def size(count: float) -> str:
    """Bytes with three digits."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def figure(values: dict[str, Any] | None) -> str:
    """The median."""
    if values is None:
        return "-"
    value = values["median"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(values: dict[str, Any] | None) -> str:
    """Median, least and greatest."""
    if values is None:
        return "-"
    return f"{values['median']:.2f} ({values['least']:.2f}-{values['greatest']:.2f})"


def pays_after(even: dict[str, Any] | None) -> str:
    """Requests until a registration has paid for itself."""
    if even is None:
        return "-"
    return "never" if even["requests"] is None else f"{even['requests']:,}"


def _score(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f}% ± {100 * value['standard_error']:.1f}"
