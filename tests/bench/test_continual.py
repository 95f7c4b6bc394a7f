"""The continual bench: how texts are cut, what an arm trains on, and its figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.cli import app
from gistserve.bench.continual import ContinualBench, Setup, arms, best_replay, summarise
from gistserve.bench.continual_text import MAX_CHARACTERS, cut, split_text
from gistserve.training.continual.source import Source
from typer.testing import CliRunner

pytest.importorskip("accelerate")


def write_words(path: Path, words: list[str], lines: int) -> Path:
    text = "".join(f"{words[i % 3]} {words[i % 2]} {words[i % 5]}\n" for i in range(lines))
    path.write_text(text)
    return path


def test_texts_are_cut_at_line_ends() -> None:
    text = "".join(f"line {i}\n" for i in range(2000))
    parts = list(cut(text))
    assert "".join(parts) == text
    assert all(len(part) <= MAX_CHARACTERS and part.endswith("\n") for part in parts)
    assert len(parts) == -(-len(text) // MAX_CHARACTERS)
    assert list(cut("x" * 9000)) == ["x" * 9000]
    assert list(cut(" \n")) == []


def test_every_20th_document_is_held_out(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": f"story {i}"}) + "\n" for i in range(45)))
    split_text(Source(name="a", path=str(source)), tmp_path / "most", tmp_path / "few")
    most, few = (
        [json.loads(line)["text"] for line in (tmp_path / name).open()] for name in ("most", "few")
    )
    assert few == ["story 19", "story 39"]
    assert sorted([*most, *few]) == sorted(f"story {i}" for i in range(45))


def test_arms_are_those_of_the_paper() -> None:
    found = {arm.name: arm for arm in arms(Setup(infinite_replay=0.25))}
    assert list(found) == [
        *("old only", "union from scratch", "constant minimum", "0% replay"),
        *("1% replay", "5% replay", "25% replay", "50% replay", "old only, infinite", "infinite"),
    ]
    assert found["constant minimum"].settings["learning_rate"] == pytest.approx(4e-4)
    assert found["infinite"].old_share == 0.25
    names = list(found)
    assert all(
        arm.start is None or names.index(arm.start) < names.index(n) for n, arm in found.items()
    )


def run_of(arm: str, seed: int, average: float, tokens: int = 10) -> dict[str, Any]:
    losses = {"old": average - 1, "new": average + 1, "average": average}
    return {"arm": arm, "seed": seed, "tokens": tokens, "training_seconds": 2.0, "final": losses}


def test_summary_and_best_replay() -> None:
    runs = [
        *(run_of("5% replay", 0, 3.0), run_of("0% replay", 0, 1.0), run_of("25% replay", 0, 2.5)),
        *(run_of("25% replay", 1, 3.5), run_of("5% replay", 1, 0.5)),
    ]
    assert best_replay(runs) == "25% replay"
    rows = {row["arm"]: row for row in summarise(runs)}
    assert rows["25% replay"]["average"] == pytest.approx(3.0)
    assert rows["25% replay"]["average_std"] == pytest.approx(0.5**0.5)
    assert rows["25% replay"]["old"] == pytest.approx(2.0)
    assert (rows["0% replay"]["seeds"], rows["0% replay"]["average_std"]) == (1, None)
    assert best_replay([run_of("0% replay", 0, 1.0)]) is None


def test_a_whole_bench_and_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gistserve.bench.continual.REPLAY", (0.25,))
    old = write_words(tmp_path / "old.txt", ["red", "green", "blue", "sun", "moon"], 8000)
    new = write_words(tmp_path / "new.txt", ["eins", "zwei", "drei", "vier", "acht"], 8000)
    command = ["continual", "--old", str(old), "--new", str(new), "--work", str(tmp_path / "work")]
    command += ["--output", str(tmp_path / "out.json"), "--tokens", "4096", "--seeds", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    runs = {(run["arm"], run["seed"]): run for run in figures["runs"]}
    assert len(runs) == len(figures["runs"]) == 11
    assert runs["union from scratch", 1]["tokens_by_source"] == {"old": 4096, "new": 4096}
    assert runs["25% replay", 0]["tokens_by_source"] == {"old": 1024, "new": 3072}
    assert runs["0% replay", 0]["tokens_by_source"] == {"new": 4096}
    assert runs["infinite", 0]["schedule"]["warmup"] == 0
    begun = runs["0% replay", 0]["curve"][0]["validation"]["old"]
    assert begun == pytest.approx(runs["old only", 0]["final"]["old"])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/runs/*/stage.json")}
    assert len(stamps) == 11
    bench = ContinualBench(
        tmp_path / "work",
        Source(name="old", path=str(old)),
        Source(name="new", path=str(new)),
        Setup(tokens=4096, seeds=2),
    )
    *_, last = bench.run()
    assert last["summary"] == figures["summary"]
    *_, few = bench.run(["25% replay", "union from scratch"])
    names = ["old only", "union from scratch", "25% replay"]
    assert [row["arm"] for row in few["summary"]] == names
    with pytest.raises(ValueError, match="'half' is none of old only, union"):
        next(bench.run(["half"]))
    command[command.index("4096")] = "8192"
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "were made with other tokens: choose another folder" in result.stderr
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
