"""The student as it is written: a model folder with manifest and card."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ...compress.atomic import write_atomic
from ...compress.sparse.output_folder import new_folder
from .card import model_card
from .config import MiniLLMConfig
from .models import Models
from .template import PromptTemplate

MODEL = "model"
MANIFEST = "distillation.json"
RESULTS = "results.json"


def write_artifact(
    models: Models,
    template: PromptTemplate,
    config: MiniLLMConfig,
    folder: Path,
    facts: dict[str, Any],
) -> None:
    """Write student, tokenizer, manifest and card to `folder`, `results.json` beside it.

    The folder appears whole or not at all, and last. Only the main process writes.
    """
    if not PartialState().is_main_process:
        return
    student, teacher = models.student, models.teacher
    facts = facts | {
        "method": config.method,
        "parameters": student.num_parameters(),
        "teacher_parameters": None if teacher is None else teacher.num_parameters(),
        "prompt": template.pattern,
    }
    record = _json({"config": asdict(config)} | facts)
    write_atomic(folder.parent / RESULTS, [record])
    models.tokenizer.chat_template = template.chat_template()
    with new_folder(folder) as temporary:
        student.save_pretrained(temporary)
        models.tokenizer.save_pretrained(temporary)
        (temporary / MANIFEST).write_bytes(record)
        (temporary / "README.md").write_text(model_card(config, facts), encoding="utf-8")


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()
