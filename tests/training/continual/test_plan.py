"""The price of an update, counted by hand."""

import pytest
from gistserve.training.cli import app
from gistserve.training.continual.plan import parse_count, plan, short_count
from typer.testing import CliRunner


def test_the_papers_case() -> None:
    """A 405M model, 300B tokens old and new each, 5% replay."""
    equal, whole, union = plan(405_000_000, 300 * 10**9, 300 * 10**9, 0.05, 200e12)
    assert (equal.tokens, equal.old, equal.new) == (300 * 10**9, 15 * 10**9, 285 * 10**9)
    assert equal.flops == pytest.approx(6 * 405e6 * 300e9)
    assert equal.hours == pytest.approx(6 * 405e6 * 300e9 / 200e12 / 3600)
    assert whole.new == 300 * 10**9
    assert whole.old / whole.tokens == pytest.approx(0.05)
    assert union.tokens == 600 * 10**9
    assert equal.flops / union.flops == pytest.approx(0.5)


def test_without_replay_or_rate() -> None:
    equal, whole, union = plan(10, 100, 50, 0.0)
    assert (equal.tokens, equal.old) == (whole.tokens, whole.old) == (50, 0)
    assert (union.tokens, union.hours) == (150, None)


@pytest.mark.parametrize("numbers", [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, -1, 0), (1, 1, 1, 1.0)])
def test_numbers_that_make_no_sense(numbers: tuple) -> None:
    with pytest.raises(ValueError, match="must be"):
        plan(*numbers)


def test_counts_as_people_write_them() -> None:
    written = ["405M", "1.3b", "300e9", "4096", "2K", "5T"]
    assert [parse_count(text) for text in written] == [
        405_000_000,
        1_300_000_000,
        300 * 10**9,
        4096,
        2000,
        5 * 10**12,
    ]
    assert [short_count(n) for n in (999, 4096, 315_789_000_000)] == ["999", "4.1K", "316B"]
    for wrong in ("", "M", "many", "1.5X"):
        with pytest.raises(ValueError, match="is no number"):
            parse_count(wrong)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["continual", "--plan", *arguments])
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.output.split())


def test_the_command_prints_the_table() -> None:
    code, said = run(
        *("--parameters", "405M", "--old-tokens", "300B", "--new-tokens", "300B"),
        *("--replay", "0.05", "--flops-per-second", "200T"),
    )
    assert code == 0
    assert "7.29e+20" in said
    assert "50.0%" in said
    assert "1,012.5" in said


def test_the_command_takes_what_a_configuration_says(tmp_path) -> None:
    path = tmp_path / "stage.yaml"
    path.write_text(
        "output_dir: o\nnew: [{name: a, path: a}]\nreplay: [{name: b, path: b}]\n"
        "replay_ratio: 0.25\ntokens: 1000000\nvocabulary_size: 400\n"
        "new_model: {model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 32}\n"
    )
    code, said = run("--config", str(path), "--old-tokens", "3M")
    assert code == 0
    parameters = 400 * 16 + 32 * 16 + (12 * 16 * 16 + 13 * 16) + 2 * 16
    assert f"{6 * parameters * 1e6:.3g}" in said
    assert "250K" in said
    assert "25.0%" in said


def test_a_model_that_cannot_be_loaded_is_named(tmp_path) -> None:
    path = tmp_path / "stage.yaml"
    path.write_text("output_dir: o\nnew: [{name: a, path: a}]\nstart_from: /no/such/model\n")
    code, said = run("--config", str(path), "--old-tokens", "3M", "--new-tokens", "1M")
    assert code == 1
    assert "no model can be loaded from '/no/such/model'" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--plan needs --parameters"),
        (("--parameters", "1M"), "--plan needs --old-tokens"),
        (("--parameters", "lots"), "'lots' is no number"),
    ],
)
def test_what_is_missing_is_named(arguments: tuple[str, ...], message: str) -> None:
    code, said = run(*arguments)
    assert code == 1
    assert message in said
