"""README.md of a trained model."""

from typing import Any

from .config import StepByStepConfig
from .tasks import CONCLUSION

_LEARNED = {
    "standard": "labels",
    "single_task": "rationales and labels in one text",
    "step_by_step": "labels and rationales as two tasks (arXiv 2305.02301)",
}


def model_card(config: StepByStepConfig, facts: dict[str, Any]) -> str:
    """The card: what was trained on what, its measures, and how to ask it."""
    data = facts["data"]
    whose = "the data's" if config.labels == "gold" else "a teacher's"
    lines = [
        "---",
        "library_name: transformers",
        f"base_model: {config.model}",
        "---",
        "",
        f"# {config.model}, trained on {_LEARNED[config.method]}",
        "",
        f"Trained on {data['examples']} examples of `{data['train_data']}` "
        f"({config.fraction:.1%} of them), {whose} labels; the checkpoint was selected by "
        f"{config.select_by} on {data['validation']} examples of "
        f"{config.validation_data or 'a held-out share of it'}.",
        "",
        "| | |",
        "|---|---|",
        f"| method, labels | {config.method}, {config.labels} |",
        f"| kept step | {facts['kept_step']} of {facts['steps']} |",
        f"| seed | {config.seed} |",
        f"| examples without label, rationale | {data['without_label']}, "
        f"{data['without_rationale']} |",
        *(
            f"| {split}: {name.replace('_', ' ')} | {value:.4g} |"
            for split, values in facts["measures"].items()
            for name, value in values.items()
        ),
        "",
        *_usage(config, facts["prompt"]),
        "",
    ]
    return "\n".join(lines)


def _usage(config: StepByStepConfig, prompt: str) -> list[str]:
    lines = [f"Give it `{prompt}` and decode greedily."]
    if config.method == "single_task":
        lines += [f"The label stands behind the last `{CONCLUSION}`."]
    if prompt.endswith("=>"):
        return [*lines, "", "```sh", "gistserve serve --model this/folder", "```"]
    return [
        *lines,
        "",
        "```python",
        "from transformers import AutoModelForSeq2SeqLM",
        'model = AutoModelForSeq2SeqLM.from_pretrained("this/folder")',
        "```",
    ]
