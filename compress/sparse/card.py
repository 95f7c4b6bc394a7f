"""README.md of a sparse checkpoint."""

from collections.abc import Mapping
from typing import Any

_UNMEASURED = "How much worse it answers than the dense model was not measured when it was made."
_ELSEWHERE = frozenset({"modules", "dense_modules", "made_with", "format_version"})


def model_card(facts: Mapping[str, Any]) -> str:
    """The card, from the facts of `sparsity.json` alone; `metrics` are those of its answers."""
    base = facts.get("base_model") or ""
    on_the_hub = "/" in base
    lines = [
        "---",
        "library_name: gistserve",
        *([f"base_model: {base}"] if on_the_hub else []),
        "---",
        "",
        f"# {base or 'A model'} with sparse weights",
        "",
        f"{facts['measured_sparsity']:.1%} of the weights of {len(facts['modules'])} linear layers"
        " are zero and are not stored; the rest of the model is dense.",
        "",
        "```sh",
        "gistserve serve --model <this folder>",
        "```",
        "",
        "or, with transformers, `import gistserve.compress` before"
        " `AutoModelForCausalLM.from_pretrained`. Without that import transformers only warns of an"
        " unknown quantization type and fills the sparse layers with random numbers.",
        "",
        *([] if "metrics" in facts else [_UNMEASURED, ""]),
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in _rows(facts)),
        "",
        "| sparse module | shape | zero | bytes | bytes dense |",
        "|---|---|---|---|---|",
        *(_module_row(name, module) for name, module in facts["modules"].items()),
        "",
        f"Left dense: {', '.join(facts['dense_modules']) or 'nothing'}.",
        "",
    ]
    return "\n".join(lines)


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    versions = " ".join(f"{name} {value}" for name, value in facts["made_with"].items())
    rows: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and name not in _ELSEWHERE:
            rows += [(f"{name}: {part}", content) for part, content in value.items()]
        elif name not in _ELSEWHERE:
            rows.append((name, value))
    return [*rows, ("made with", versions)]


def _module_row(name: str, module: Mapping[str, Any]) -> str:
    rows, columns = module["shape"]
    return (
        f"| {name} | {rows} x {columns} | {module['sparsity']:.2%} | {module['bytes']:,} "
        f"| {module['dense_bytes']:,} |"
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
