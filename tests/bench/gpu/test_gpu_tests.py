"""The marked tests are found, run a process a file, and counted also when time runs out."""

from pathlib import Path

import pytest
from gistserve.bench.gpu.budget import Deadline
from gistserve.bench.gpu.gpu_tests import find_gpu_tests, run_tests

MIXED = """
import pytest
@pytest.mark.gpu
def test_good(): pass
@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2])
def test_bad(size): assert size == 1, "too large"
@pytest.mark.gpu
def test_absent(): pytest.skip("no device")
def test_of_no_interest(): assert False
"""
SLOW = """
import pytest, time
@pytest.mark.gpu
def test_quick(): pass
@pytest.mark.gpu
def test_slow(): time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
    return tmp_path


def test_outcomes_are_counted(folder: Path) -> None:
    (folder / "test_mixed.py").write_text(MIXED)
    (folder / "test_broken.py").write_text("import no_such_module  # mark.gpu\n")
    (folder / "test_plain.py").write_text("def test_a(): pass\n")
    paths = find_gpu_tests(folder)
    assert [path.name for path in paths] == ["test_broken.py", "test_mixed.py"]
    logs = folder / "logs"
    logs.mkdir()
    report = run_tests(paths, logs, Deadline.after(60))
    assert report.counts == {"passed": 2, "failed": 1, "skipped": 1}
    assert "test_bad[2]" in report.failures[0]["test"]
    assert "too large" in report.failures[0]["text"]
    assert report.files == {"test_mixed.py": 1, "test_broken.py": 2}
    assert "no_such_module" in report.output["test_broken.py"]
    assert (report.unfinished, report.passed) == (["test_broken.py"], False)


def test_the_deadline_keeps_what_was_known(folder: Path) -> None:
    (folder / "test_slow.py").write_text(SLOW)

    def clock() -> float:  # time is up once the first outcome is known
        journal = folder / "test_slow.py.jsonl"
        return float(journal.exists() and journal.stat().st_size > 0)

    report = run_tests([folder / "test_slow.py"], folder, Deadline(0.5, clock))
    assert report.counts == {"passed": 1}
    assert (report.files, report.passed) == ({"test_slow.py": "killed"}, False)


def test_our_own_marked_tests_are_found() -> None:
    names = {path.name for path in find_gpu_tests()}
    assert "test_gist_flex.py" in names
    assert "test_store.py" not in names
