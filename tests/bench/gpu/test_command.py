"""The command as people call it; all of it runs on the CPU, on tiny sizes."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from gistserve.bench.gpu.__main__ import main
from gistserve.bench.gpu.ceilings import SECTION as CEILINGS
from gistserve.bench.gpu.device import BenchDevice
from gistserve.bench.gpu.sections import SECTIONS, SWEEPS, TESTS
from gistserve.bench.gpu.session import Session

# What the device machine need not have, and the command must not import.
RUN = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"typer", "peft", "fastapi", "uvicorn", "pydantic", "openai"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
sys.argv = ["gpu", *sys.argv[1:]]
runpy.run_module("gistserve.bench.gpu", run_name="__main__", alter_sys=True)
"""


def test_a_dry_run_goes_through_everything(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    sections = [*SECTIONS, *SWEEPS]
    options = ["--dry-run", "--output", str(output), "--limit", "200", "--sections", *sections]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    data = json.loads(output.read_text())
    assert data["dry_run"] and list(data["sections"]) == sections
    for name, section in data["sections"].items():
        assert section["status"] == "done" and section["measurements"], name
        for measurement in section["measurements"]:
            assert measurement["status"] == "measured", measurement
    assert data["made_by"]["versions"]["torch"] == version("torch")
    assert data["made_by"]["command"].startswith("python -m gistserve.bench.gpu --dry-run")
    assert "DRY RUN" in done.stdout and str(output) in done.stdout


def test_a_section_runs_in_a_process_of_its_own() -> None:
    """As on a GPU, and what no child came to is recorded as well."""
    reports: list[dict] = []
    session = Session(BenchDevice.dry_run(), [CEILINGS], limit=100, in_children=True)
    report = session.run(lambda so_far: reports.append(so_far.as_dict()), reports.append)
    assert report.sections[CEILINGS].status == "done", report.sections[CEILINGS].note
    assert [m.status for m in report.measurements] == ["measured", "measured"]
    assert len(reports) == 3 and "ceilings: done" in str(reports[1])


def test_what_no_child_came_to_is_not_reached() -> None:
    session = Session(BenchDevice.dry_run(), [CEILINGS], limit=0, in_children=True)
    report = session.run(lambda so_far: None, lambda line: None)
    assert report.sections[CEILINGS].status == "cut short"
    assert [m.status for m in report.measurements] == ["not reached", "not reached"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("no CUDA device: ") and captured.err.count("\n") == 1


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--sections", "nonsense"]) == 2
    assert TESTS in capsys.readouterr().err
