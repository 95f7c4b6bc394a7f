"""An annotation that is killed and started again ends as one that never was."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from gistserve.server.cli import app
from gistserve.training.step_by_step.annotation import AnnotationConfig, annotate
from typer.testing import CliRunner

from .conftest import Configure
from .fake_endpoint import FakeEndpoint

NAMES = [f"n{number}" for number in range(60)]


def answer(question: str) -> str:
    return "?" if question.endswith("7") else f"About {question}. So the answer is {question}."


def saved(config: AnnotationConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(asdict(config)))
    return path


def outputs(config: AnnotationConfig) -> list[bytes]:
    path = Path(config.output)
    return [path.read_bytes(), path.with_suffix(".unparsable.jsonl").read_bytes()]


def test_killed_and_started_again(
    configure: Configure, teacher: FakeEndpoint, tmp_path: Path
) -> None:
    teacher.answer = answer
    undisturbed = configure(NAMES, output=str(tmp_path / "undisturbed.jsonl"))
    annotate(undisturbed)
    teacher.requests.clear()
    teacher.seconds = 0.1
    config = configure(NAMES, concurrency=4)
    command = [sys.executable, "-m", "gistserve.server.cli", "train", "annotate", "--config"]
    answers = Path(config.output).with_suffix(".answers.jsonl")
    with subprocess.Popen(
        [*command, str(saved(config, tmp_path / "a.yaml"))], stderr=subprocess.DEVNULL
    ) as process:
        _wait_for_lines(answers, 9, process)
        os.kill(process.pid, signal.SIGKILL)
    assert not Path(config.output).exists()
    kept = answers.read_bytes().count(b"\n") - 1
    before = len(teacher.requests)
    assert 8 <= kept < len(NAMES)
    teacher.seconds = 0
    outcome = annotate(config)
    assert (outcome.num_annotated, outcome.num_unparsable) == (54, 6)
    assert outputs(config) == outputs(undisturbed)
    # Nothing that was kept is asked again: what is lost is what was under way.
    assert len(teacher.requests) - before == len(NAMES) - kept
    assert before - kept <= config.concurrency


def _wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_the_command_tells_what_it_wrote(
    configure: Configure, teacher: FakeEndpoint, tmp_path: Path
) -> None:
    teacher.answer = answer
    config = configure(NAMES, limit=10)
    arguments = ["train", "annotate", "--config", str(saved(config, tmp_path / "a.yaml"))]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    told = done.stdout.replace("\n", " ")
    assert f"Wrote {config.output}: 9 records" in told
    assert "1 records have no answer" in told and ".unparsable.jsonl" in told


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"url": "127.0.0.1:8000"}, "url must be an address such as"),
        ({"output": "out.json"}, "output must be a file name that ends in .jsonl"),
        ({"data": "missing.jsonl"}, "missing.jsonl cannot be read"),
        ({"input_template": "{question}"}, "data.jsonl:1: input_template"),
        ({"demonstrations": "gsm8k"}, "cqa, nli, svamp"),
        ({"url": "http://127.0.0.1:9/v1", "retries": 0}, "gave no answer in 1 tries"),
    ],
)
def test_the_command_tells_what_is_wrong(
    configure: Configure, tmp_path: Path, settings: dict, reason: str
) -> None:
    file = saved(configure(NAMES), tmp_path / "a.yaml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))
    done = CliRunner().invoke(app, ["train", "annotate", "--config", str(file)])
    assert done.exit_code == 1
    assert reason in done.stderr and "Traceback" not in done.stderr


def test_a_file_of_something_else_is_not_written_over(
    configure: Configure, tmp_path: Path, teacher: FakeEndpoint
) -> None:
    config = configure(NAMES)
    Path(config.output).write_text("precious")
    done = CliRunner().invoke(
        app, ["train", "annotate", "--config", str(saved(config, tmp_path / "a.yaml"))]
    )
    assert done.exit_code == 1 and "choose another output" in done.stderr
    assert Path(config.output).read_text() == "precious" and not teacher.requests
