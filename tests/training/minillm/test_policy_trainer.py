"""MiniLLM's loop: its updates, its checkpoints, its reports."""

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from gistserve.training.accelerate_checkpoints import saved_checkpoints
from gistserve.training.config import ConfigError
from gistserve.training.minillm.policy_trainer import MiniLLMTrainer
from gistserve.training.minillm.rollouts import score_rollouts
from gistserve.training.run_log import read_metrics

from .tiny_pairs import gradients
from .tiny_trainer import PROMPTS, make_trainer, student_of, weights

SCRIPT = Path(__file__).with_name("tiny_trainer.py")


def responses() -> list[list[int]]:
    return [[(row + place) % 11 for place in range(1 + row % 5)] for row in range(8)]


def minibatch_gradients(
    folder: Path, rows: list[list[int]], **changes: Any
) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder, **changes)
    rollouts = score_rollouts(trainer._pair, PROMPTS[:8], responses(), trainer._settings)
    trainer.gradients(rollouts, rows, scale=1 / 12)
    return gradients(student_of(trainer))


def test_accumulation_does_not_change_the_update(tmp_path: Path) -> None:
    whole = minibatch_gradients(tmp_path, [[0, 5, 2, 7]])
    parts = minibatch_gradients(tmp_path, [[0], [5], [2], [7]], gradient_accumulation_steps=4)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 0.1


def test_recomputed_layers_do_not_change_the_update(tmp_path: Path) -> None:
    whole = minibatch_gradients(tmp_path, [[0, 5, 2, 7]])
    again = minibatch_gradients(tmp_path, [[0, 5, 2, 7]], gradient_checkpointing=True)
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=1e-4)


def test_weights_stay_in_float32_where_bfloat16_computes(tmp_path: Path) -> None:
    exact = minibatch_gradients(tmp_path, [[0, 5, 2, 7]])
    AcceleratorState._reset_state(reset_partial_state=True)
    half = minibatch_gradients(tmp_path, [[0, 5, 2, 7]], bf16=True)
    for name, gradient in half.items():
        assert gradient.dtype == torch.float32
        size = float(exact[name].norm())
        assert 0 < float((gradient - exact[name]).norm()) < 0.1 * size, name


def test_documents_are_learned_by_their_weight(tmp_path: Path) -> None:
    """The gradient is affine in the weight, and that of the mean cross-entropy is added."""
    plain, once, twice = (
        minibatch_gradients(tmp_path, [[0, 5, 2, 7]], lm_weight=weight) for weight in (0, 1, 2)
    )
    trainer = make_trainer(tmp_path)
    rows = torch.cat(trainer._documents())
    assert len(rows) == 4
    student_of(trainer)(input_ids=rows, labels=rows).loss.backward()
    alone = gradients(student_of(trainer))
    for name, gradient in alone.items():
        torch.testing.assert_close(once[name] - plain[name], gradient, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(twice[name] - once[name], gradient, atol=1e-5, rtol=1e-3)


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = make_trainer(whole)
    uninterrupted.train()
    process = subprocess.run([sys.executable, str(SCRIPT), str(killed), "8"], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()[-2000:]
    checkpoints = saved_checkpoints(killed / "checkpoints")
    assert [path.name for path in checkpoints] == ["checkpoint-4"]
    resumed = make_trainer(killed)
    assert resumed.train(checkpoints[-1]).step == 12
    ours, theirs = weights(resumed), weights(uninterrupted)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    start = weights(make_trainer(tmp_path / "start"))
    assert not any(torch.equal(start[name], theirs[name]) for name in theirs)
    same = ("step", "learning_rate", "reverse_kl", "lm_loss", "reward", "tokens", "validation")
    assert [_only(row, same) for row in read_metrics(killed)] == [
        _only(row, same) for row in read_metrics(whole)
    ]


def _only(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row.get(name) for name in names}


def test_evaluations_and_checkpoints_fall_on_the_ends_of_buffers(tmp_path: Path) -> None:
    """A buffer is learned in 4 steps: what is due at 3, 6 and 9 happens at 4, 8 and 12."""
    evaluated: list[int] = []

    def evaluate(step: int) -> dict[str, float]:
        evaluated.append(step)
        return {"rouge_l": step / 100}

    trainer = make_trainer(
        tmp_path, evaluate, eval_steps=3, save_steps=6, save_total_limit=5, max_steps=14
    )
    trainer.train()
    assert evaluated == [0, 4, 8, 12, 14]
    saved = [path.name for path in saved_checkpoints(tmp_path / "checkpoints")]
    assert saved == ["checkpoint-8", "checkpoint-12", "checkpoint-14"]
    rows = read_metrics(tmp_path)
    measured = [(row["step"], row["validation"]["rouge_l"]) for row in rows if "validation" in row]
    assert measured == [(step, step / 100) for step in evaluated]


def test_what_is_reported(tmp_path: Path) -> None:
    make_trainer(tmp_path, tensorboard=True).train()
    rows = [row for row in read_metrics(tmp_path) if "validation" not in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for row in rows:
        assert row["reverse_kl"] > 0 and row["lm_loss"] > 0 and row["grad_norm"] > 0
        assert 1 <= row["tokens"] <= 5
        assert 0 < row["weight"] <= 1.25
        assert row["rollout_loss"] == pytest.approx(row["single_step_loss"] + row["sampled_loss"])
    assert list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"lr_scheduler": "constant_with_warmup"}, [0.01] * 6),
        ({"lr_scheduler": "constant_with_warmup", "warmup": 4}, [0.005] + [0.01] * 5),
        ({"warmup": 0.5}, [1 / 300, 2 / 300, 0.01, 2 / 300, 1 / 300, 0]),
    ],
)
def test_learning_rates(tmp_path: Path, settings: dict[str, Any], rates: list[float]) -> None:
    """Told is the rate of the step to come."""
    make_trainer(tmp_path, save_steps=12, **settings).train()
    told = [row["learning_rate"] for row in read_metrics(tmp_path) if "reward" in row]
    assert told == pytest.approx(rates)


def test_the_learning_rate_is_that_of_the_update(tmp_path: Path) -> None:
    """Adam's first step moves every weight by the rate, whatever its gradient."""
    trainer = make_trainer(tmp_path, weight_decay=0.0, max_steps=1)
    before = weights(trainer)
    trainer.train()
    moved = [(after - before[name]).abs() for name, after in weights(trainer).items()]
    assert float(torch.cat([m.flatten() for m in moved]).median()) == pytest.approx(0.01, rel=1e-2)


def test_the_student_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    settings = {"rollouts": 32, "minibatch": 16, "max_steps": 48, "save_steps": 48}
    make_trainer(tmp_path, learning_rate=3e-2, logging_steps=4, lm_weight=0, **settings).train()
    rows = [row["reverse_kl"] for row in read_metrics(tmp_path) if "reverse_kl" in row]
    assert rows[-1] < 0.6 * rows[0]


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        student_of(trainer).model.norm.weight.fill_(math.inf)
    trainer._sample = lambda: rollouts  # type: ignore[method-assign]
    other: MiniLLMTrainer = make_trainer(tmp_path)
    rollouts = score_rollouts(other._pair, PROMPTS[:8], responses(), other._settings)
    with pytest.raises(ConfigError, match=r"no number at step 2.*lower learning_rate"):
        trainer.train()
