"""Samples on the console."""

import sys

import pytest
from accelerate import PartialState
from gistserve.training.samples import Sample, print_samples
from tqdm.auto import tqdm


def test_each_text_is_shown_under_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    known = Sample("Say\nhello.", "Hello \x1b[31mthere", "Hello")
    print_samples("step 20", [known, Sample("2+2=", "  ")])
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "--- step 20",
        "   prompt: Say hello.",
        "    model: Hello \ufffd[31mthere",
        " expected: Hello",
        "   prompt: 2+2=",
        "    model: (nothing)",
    ]


def test_long_texts_keep_their_ends(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"w{i}" for i in range(500)]
    print_samples("step 1", [Sample(" ".join(words), "done")])
    out = capsys.readouterr().out
    assert "w0 " in out and "w499" in out and "w250" not in out and "done" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_progress_bar_is_drawn_again_below(capsys: pytest.CaptureFixture[str]) -> None:
    with tqdm(total=3, desc="training", file=sys.stdout) as bar:
        print_samples("step 1", [Sample("a", "b")])
        bar.update()
    before, after = capsys.readouterr().out.split("    model: b")
    assert "training" in before and after.startswith("\n") and "training" in after
    assert "training" not in before.splitlines()[-2]


def test_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PartialState(), "process_index", 1)
    print_samples("step 1", [Sample("a", "b")])
    assert capsys.readouterr().out == ""
