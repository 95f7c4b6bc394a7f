"""Which texts each method learns from a record, and how its answers are read.

Hsieh et al. 2023 (arXiv 2305.02301), section 3.2: a prefix tells the two tasks of step-by-step
apart, and only the label task is asked at inference.
"""

from typing import Literal, NamedTuple

from .data import Annotated

Method = Literal["standard", "single_task", "step_by_step"]
Labels = Literal["gold", "teacher"]

LABEL, RATIONALE = 0, 1
TASKS = ("label", "rationale")
CONCLUSION = "So the answer is"
"""Between rationale and label where one text holds both, as in the teacher's own examples."""


class TaskText(NamedTuple):
    """One text to learn: LABEL or RATIONALE, what is given, what is to be written."""

    task: int
    source: str
    target: str


def question(source: str, method: Method, task: int = LABEL) -> str:
    """What a model of `method` is given to do a task for an input."""
    return f"[{TASKS[task]}] {source}" if method == "step_by_step" else source


def known_label(item: Annotated, labels: Labels) -> str | None:
    """The label that is learned, if there is one."""
    return item.label if labels == "gold" else item.teacher_label


def task_texts(item: Annotated, method: Method, labels: Labels) -> list[TaskText]:
    """All that `method` learns from a record: nothing where what it needs is missing.

    Without a rationale the label is still learned, in `single_task` behind its introduction.
    """
    label = known_label(item, labels)
    texts = []
    if label is not None:
        target = label_text(label, method, item.rationale or "")
        texts.append(TaskText(LABEL, question(item.source, method), target))
    if method == "step_by_step" and item.rationale is not None:
        source = question(item.source, method, RATIONALE)
        texts.append(TaskText(RATIONALE, source, item.rationale))
    return texts


def label_text(label: str, method: Method, rationale: str) -> str:
    """What a model of `method` is to write for a label: in `single_task` behind a rationale."""
    if method != "single_task":
        return label
    return " ".join(filter(None, (rationale, CONCLUSION, label)))


def read_rationale(written: str, method: Method) -> str:
    """What stands before the label in what a model of `method` wrote."""
    if method != "single_task":
        return ""
    rationale, found, _ = written.rpartition(CONCLUSION)
    return (rationale if found else written).strip()


def read_answer(written: str, method: Method) -> str | None:
    """The label in what a model of `method` wrote; None where a single text comes to no end."""
    if method != "single_task":
        return written.strip()
    _, found, label = written.rpartition(CONCLUSION)
    return label.strip() if found else None
