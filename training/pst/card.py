"""README.md of a trained model."""

from typing import Any

from .config import PSTConfig


def model_card(config: PSTConfig, facts: dict[str, Any]) -> str:
    """The card: what was trained on what, its measures, and how to run it."""
    lines = [
        "---",
        "library_name: gistserve",
        f"base_model: {config.model}",
        "---",
        "",
        f"# {config.model}, {_title(config, facts)}",
        "",
        f"Task: {config.task}, trained on `{config.train_data}`; the checkpoint was selected on "
        f"{config.validation_data or 'a held-out share of it'}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _rows(config, facts)),
        "",
        *_measures(facts["measures"]),
        "",
        *_usage(config, facts),
        "",
    ]
    return "\n".join(lines)


def _title(config: PSTConfig, facts: dict[str, Any]) -> str:
    if config.method == "dense":
        return "fine-tuned"
    return f"{facts['sparsity']:.1%} sparse ({config.method})"


def _rows(config: PSTConfig, facts: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("method", config.method), ("seed", config.seed)]
    if config.method != "dense":
        rows += [("pattern", config.pattern), ("sparsity of pruned layers", facts["sparsity"])]
    rows += [
        ("trained parameters", f"{facts['trained_parameters']:,}"),
        ("of the model's", f"{facts['trained_share_of_model']:.2%}"),
        ("of its weights and scores", f"{facts['trained_share_of_weights_and_scores']:.2%}"),
    ]
    return rows


def _measures(measures: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| measure | value |", "|---|---|"]
    for split, values in measures.items():
        lines += [f"| {split}: {name.replace('_', ' ')} | {v:.4g} |" for name, v in values.items()]
    return lines


def _usage(config: PSTConfig, facts: dict[str, Any]) -> list[str]:
    load = {
        "classification": "AutoModelForSequenceClassification",
        "causal": "AutoModelForCausalLM",
        "seq2seq": "AutoModelForSeq2SeqLM",
    }[config.task]
    lines = (
        [] if config.method == "dense" else ["import gistserve.compress  # reads sparse weights"]
    )
    lines = [
        "```python",
        *lines,
        f"from transformers import {load}",
        f'model = {load}.from_pretrained("this/folder")',
        "```",
    ]
    if config.task != "causal":
        return lines
    return [
        *("```sh", "gistserve serve --model this/folder", "```"),
        "",
        f"A prompt is `{facts['prompt']}`; decode greedily.",
        "",
        *lines,
    ]
