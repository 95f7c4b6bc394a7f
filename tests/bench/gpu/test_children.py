"""A section goes on after a crash, a hang and a dead device, and stops with its time."""

import sys
from pathlib import Path

import pytest
from gistserve.bench.gpu.budget import Deadline
from gistserve.bench.gpu.children import POISONED, run_in_children
from gistserve.bench.gpu.journal import Journal

# Measures cases 0 to 2; what `fault` names happens in case 1 unless it has a result already.
CHILD = """
import json, os, pathlib, sys, time
path, fault = pathlib.Path(sys.argv[1]), sys.argv[2]
text = path.read_text() if path.exists() else ""
def write(kind, value):
    with path.open("a") as file: file.write(json.dumps({kind: value}) + "\\n")
def result(case, status):
    write("result", {"section": "part", "arm": "ours", "case": {"case": case}, "status": status})
if fault == "at once": sys.exit("no such module")
for case in range(3):
    if '"result"' in text and f'"case": {{"case": {case}}}, "status"' in text: continue
    write("begin", {"arm": "ours", "case": {"case": case}})
    if case == 1 and fault == "crash": os.abort()
    if case == 1 and fault == "hang": time.sleep(60)
    if case == 1 and fault == "poison": result(1, "crashed"); sys.exit(%d)
    result(case, "measured")
"""


def run(
    folder: Path, fault: str, deadline: Deadline | None = None, *, stall: float = 60
) -> tuple[tuple[str, str], list[str]]:
    script, journal = folder / "child.py", folder / "journal.jsonl"
    script.write_text(CHILD % POISONED)
    command = [sys.executable, "-S", str(script), str(journal), fault]
    end = run_in_children("part", command, journal, deadline or Deadline.after(120), stall)
    return end, [m.status for m in Journal(journal, "part").measurements]


@pytest.mark.parametrize("fault", ["crash", "poison"])
def test_the_next_child_leaves_out_what_crashed(fault: str, tmp_path: Path) -> None:
    end, statuses = run(tmp_path, fault)
    assert (end, statuses) == (("done", ""), ["measured", "crashed", "measured"])


def test_what_hangs_is_killed_and_left_out(tmp_path: Path) -> None:
    end, statuses = run(tmp_path, "hang", stall=3)
    assert (end[0], statuses) == ("done", ["measured", "crashed", "measured"])


def test_the_deadline_ends_a_child(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"

    def clock() -> float:  # time is up once the second case has begun
        return 100.0 * (journal.exists() and journal.read_text().count("begin") == 2)

    end, statuses = run(tmp_path, "hang", Deadline(50.0, clock))
    assert (end[0], statuses) == ("cut short", ["measured", "not reached"])


def test_a_child_that_cannot_even_begin_is_not_tried_again(tmp_path: Path) -> None:
    end, statuses = run(tmp_path, "at once")
    assert (end[0], statuses) == ("failed", [])
    assert "no such module" in end[1]
