"""Results outlive the process that wrote them, and what killed it is known."""

from pathlib import Path

from gistserve.bench.gpu.journal import Journal

from .samples import measured

CASE = {"batch": 1, "model": "1B"}


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written = Journal(path, "part")
    written.begin("ours", CASE)
    written.record(measured("part", "ours", CASE, 1.5, floor_bytes=3.0))
    read = Journal(path, "part")
    assert read.measurements == written.measurements
    assert read.find("ours", {"model": "1B", "batch": 1}) == read.measurements[0]
    assert read.find("ours", CASE | {"batch": 2}) is None
    assert not read.close("nothing was begun")


def test_what_began_and_never_ended_is_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "part").begin("ours", CASE)
    with path.open("a") as file:
        file.write('{"result": {"sect')  # the process died while it wrote
    journal = Journal(path, "part")
    assert journal.close("signal 11")
    (result,) = Journal(path, "part").measurements
    assert (result.status, result.note, result.samples_ms) == ("crashed", "signal 11", [])
    assert journal.crashes("ours") == 1 and journal.crashes("theirs") == 0
