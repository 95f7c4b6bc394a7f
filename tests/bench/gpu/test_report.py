"""What people and programs read at the end."""

import json

from gistserve.bench.gpu.attention import DECODE, OURS, PREFILL
from gistserve.bench.gpu.ceilings import SECTION as CEILINGS
from gistserve.bench.gpu.command import is_right
from gistserve.bench.gpu.gpu_tests import GpuTestReport
from gistserve.bench.gpu.report import Report, SectionReport, device_slug
from gistserve.bench.gpu.standards import DECODE_LENGTH
from gistserve.bench.gpu.table import aligned

from .samples import measured

LONG = {"model": "8B", "batch": 1, "length": DECODE_LENGTH}
SHORT = LONG | {"length": 512}


def report() -> Report:
    """A copy moves 4e9 bytes a millisecond."""
    whole = Report({"name": "NVIDIA H200 141GB"}, limit_s=480, dry_run=False)
    sections = {
        CEILINGS: [measured(CEILINGS, "copy", {"bytes": 1}, 2.0, floor_bytes=8e9)],
        DECODE: [
            measured(DECODE, OURS, LONG, 2.0, floor_bytes=7.2e9),
            measured(DECODE, OURS, SHORT, 1.0, floor_bytes=1e9),
            measured(DECODE, "sdpa flash", SHORT, None),
        ],
        PREFILL: [
            measured(PREFILL, OURS, SHORT, 2.0),
            measured(PREFILL, "sdpa flash", SHORT, 1.0),
            measured(PREFILL, OURS, LONG, 2.0),
        ],
    }
    for name, measurements in sections.items():
        whole.sections[name] = SectionReport("done", 1.0, "", measurements)
    return whole


def test_standards_are_judged_by_the_ceilings_of_the_run() -> None:
    verdicts = report().verdicts
    outcomes = [(v.section, v.case["length"], v.value, v.outcome) for v in verdicts]
    assert outcomes == [
        (DECODE, DECODE_LENGTH, 0.9, "pass"),
        (PREFILL, 512, 0.5, "FAIL"),
        (PREFILL, DECODE_LENGTH, None, "not measured"),
    ]
    without = report()
    del without.sections[CEILINGS]
    assert without.verdicts[0].outcome == "not measured"


def test_the_text_has_times_floors_and_verdicts() -> None:
    lines = [" ".join(line.split()) for line in report().as_text().splitlines()]
    assert lines[0].startswith("NVIDIA H200 141GB: copy 4.00 TB/s")
    (line,) = [line for line in lines if f"length {DECODE_LENGTH} 2000.0 ( 90%)" in line]
    assert line.endswith("0.90 of 0.85 pass")
    (line,) = [line for line in lines if "length 512 1000.0 ( 25%)" in line]
    assert line.endswith("not reached")
    assert any(line.endswith("0 of 2 0.50 of 0.8") for line in lines)


def test_reasons_are_told_once() -> None:
    whole = report()
    for measurement in whole.sections[DECODE].measurements[:2]:
        measurement.note = "ValueError: no"
    assert "paged: ValueError: no (model 8B, batch 1, length 32768 and 1 more)" in whole.as_text()


def test_the_result_file_holds_everything() -> None:
    whole = report()
    whole.tests = GpuTestReport({"passed": 3}, files={"a": 0})
    data = json.loads(json.dumps(whole.as_dict()))
    assert data["ceilings"] == {"bandwidth": 4e12, "matmul_rate": None}
    assert data["sections"][DECODE]["measurements"][0]["samples_ms"] == [2.0]
    assert data["standards"][0]["outcome"] == "pass"
    assert data["tests"]["counts"] == {"passed": 3}


def test_right_is_what_has_no_failing_test_and_no_wrong_output() -> None:
    whole = report()
    assert is_right(whole)
    whole.tests = GpuTestReport({"passed": 3}, files={"a": 0})
    assert is_right(whole)
    for files in ({"a": 0, "b": "killed"}, {"a": 2}):
        assert not is_right(Report({}, 1, False, GpuTestReport({"passed": 3}, files=files)))
    assert not is_right(Report({}, 1, False, GpuTestReport()))  # no test ran
    whole.sections[DECODE].measurements[0].status = "wrong"
    assert not is_right(whole)


def test_names_and_columns() -> None:
    assert device_slug({"name": "NVIDIA H100 80GB HBM3"}) == "nvidia_h100_80gb_hbm3"
    assert aligned([["a", "b"], ["long", "1.5"]]) == "a       b\nlong  1.5"
