"""The marked tests are found, run a process a file, and counted also when time runs out."""

from pathlib import Path

import pytest
from gistserve.bench.gpu.budget import Deadline
from gistserve.bench.gpu.gpu_tests import find_gpu_tests, run_tests

# Not spelled out, or this file would be taken for one that holds tests of a GPU.
MARK = "mark." + "gpu"
MIXED = f"""
import pytest
@pytest.{MARK}
def test_good(): pass
@pytest.{MARK}
@pytest.mark.parametrize("size", [1, 2])
def test_bad(size): assert size == 1, "too large"
@pytest.{MARK}
def test_absent(): pytest.skip("no device")
def test_of_no_interest(): assert False
"""
SLOW = f"""
import pytest, time
@pytest.{MARK}
def test_quick(): pass
@pytest.{MARK}
def test_slow(): time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
    return tmp_path


def test_outcomes_are_counted(folder: Path) -> None:
    (folder / "test_mixed.py").write_text(MIXED)
    (folder / "test_broken.py").write_text(f"import no_such_module  # {MARK}\n")
    paths = find_gpu_tests(folder)
    logs = folder / "logs"
    logs.mkdir()
    report = run_tests(paths, logs, Deadline.after(200))
    assert report.counts == {"passed": 2, "failed": 2, "skipped": 1}
    texts = {failure["test"].rsplit("/")[-1]: failure["text"] for failure in report.failures}
    assert "too large" in texts["test_mixed.py::test_bad[2]"]
    assert "no_such_module" in texts["test_broken.py"]
    assert set(report.files) == {"test_mixed.py", "test_broken.py"}
    assert report.files["test_mixed.py"] == 1 and not report.passed


def test_a_file_that_dies_has_not_passed(folder: Path) -> None:
    dying = f"import os, pytest\n@pytest.{MARK}\ndef test_dies(): os._exit(11)\n"
    (folder / "test_dying.py").write_text(dying)
    report = run_tests([folder / "test_dying.py"], folder, Deadline.after(200))
    assert not report.passed
    assert report.unfinished or report.failures  # the latter where pytest-xdist is installed


def test_the_deadline_keeps_what_was_known(folder: Path) -> None:
    (folder / "test_slow.py").write_text(SLOW)

    def clock() -> float:  # time is up once the first outcome is known
        journal = folder / "test_slow.py.jsonl"
        return float(journal.exists() and journal.stat().st_size > 0)

    report = run_tests([folder / "test_slow.py"], folder, Deadline(0.5, clock))
    assert report.counts == {"passed": 1}
    assert (report.files, report.passed) == ({"test_slow.py": "killed"}, False)


def test_files_are_found_by_their_mark_and_their_helpers(folder: Path) -> None:
    texts = {
        "cases.py": f"import pytest\nDEVICES = [pytest.{MARK}]\n",
        "test_by_helper.py": "from .cases import DEVICES\n",
        "test_marked.py": f"import pytest\npytestmark = pytest.{MARK}\n",
        "test_plain.py": "def test_cases(): pass\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    assert [p.name for p in find_gpu_tests(folder)] == ["test_by_helper.py", "test_marked.py"]
    assert find_gpu_tests(folder / "nowhere") == []


def test_our_own_marked_tests_are_found() -> None:
    names = {path.name for path in find_gpu_tests()}
    assert {"test_gist_flex.py", "test_cuda.py"} <= names
    assert not {"test_store.py", "test_gpu_tests.py"} & names


def test_what_measures_memory_runs_first_and_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test_a", "test_memory"):
        (folder / f"{name}.py").write_text("# gpu_memory_utilization" * (name != "test_a"))
    runs = []

    def run(paths: list[Path], most: int, _: Path, deadline: Deadline, report: object) -> None:
        runs.append(([path.stem for path in paths], most, deadline.at))

    monkeypatch.setattr("gistserve.bench.gpu.gpu_tests._run_together", run)
    run_tests(sorted(folder.glob("*.py")), folder, Deadline(100.0, lambda: 20.0))
    assert runs == [(["test_memory"], 1, 60.0), (["test_a"], 4, 100.0)]
