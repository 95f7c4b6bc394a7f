"""A fake teacher, and configurations that ask it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gistserve.training.step_by_step.annotation import AnnotationConfig

from .fake_endpoint import FakeEndpoint, fake_endpoint

Configure = Callable[..., AnnotationConfig]


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    monkeypatch.setattr("gistserve.training.step_by_step.annotation.retries.FIRST_WAIT", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with fake_endpoint() as fake:
        yield fake


@pytest.fixture
def configure(tmp_path: Path, teacher: FakeEndpoint) -> Configure:
    """A configuration over records with these inputs; the last one has no label."""

    def build(inputs: list[str], **settings: Any) -> AnnotationConfig:
        data, shown = tmp_path / "data.jsonl", tmp_path / "shown.jsonl"
        rows = [{"input": text, "label": f"gold {text}"} for text in inputs[:-1]]
        rows.append({"input": inputs[-1]})
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        shown.write_text('{"input": "i", "rationale": "r", "label": "l"}\n')
        made = {
            "data": str(data),
            "output": str(tmp_path / "out.jsonl"),
            "demonstrations": str(shown),
            "model": "big",
            "url": teacher.url,
            "retries": 3,
        }
        return AnnotationConfig(**(made | settings))

    return build


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
