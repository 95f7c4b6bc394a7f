"""README.md of a distilled student."""

from typing import Any

from .config import MiniLLMConfig

_METHODS = {
    "minillm": "distilled by MiniLLM (arXiv 2306.08543)",
    "sft": "fine-tuned",
    "kd": "distilled by word-level knowledge distillation (arXiv 1606.07947)",
    "seqkd": "distilled by sequence-level knowledge distillation (arXiv 1606.07947)",
}


def model_card(config: MiniLLMConfig, facts: dict[str, Any]) -> str:
    """The card: what was trained on what, its measures, and how to run it."""
    lines = [
        "---",
        "library_name: transformers",
        f"base_model: {config.model}",
        "---",
        "",
        f"# {config.model}, {_METHODS[config.method]}",
        "",
        f"Trained on `{config.train_data}`; the checkpoint was selected on "
        f"{config.validation_data or 'a held-out share of it'}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _rows(config, facts)),
        "",
        *_measures(facts["measures"]),
        "",
        *_usage(facts),
        "",
    ]
    return "\n".join(lines)


def _rows(config: MiniLLMConfig, facts: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("method", config.method),
        ("parameters", f"{facts['parameters']:,}"),
    ]
    if config.teacher is not None:
        rows.append(("teacher", f"{config.teacher} ({facts['teacher_parameters']:,} parameters)"))
    rows += [("seed", config.seed), ("steps", facts["steps"]), ("kept step", facts["kept_step"])]
    if "warm_start" in facts:
        rows.append(("steps of the warm start", facts["warm_start"]["steps"]))
    return rows


def _measures(measures: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| measure | value |", "|---|---|"]
    for split, values in measures.items():
        lines += [f"| {split}: {name.replace('_', ' ')} | {v:.4g} |" for name, v in values.items()]
    return lines


def _usage(facts: dict[str, Any]) -> list[str]:
    return [
        *("```sh", "gistserve serve --model this/folder", "```"),
        "",
        "A prompt is",
        "",
        *("```", facts["prompt"], "```"),
        "",
        "It was trained to be sampled from at temperature 1.",
    ]
