"""Two processes learn a minibatch as one process does."""

import os
import sys
from pathlib import Path

import torch
from gistserve.training.minillm.rollouts import score_rollouts
from gistserve.training.run_log import read_metrics

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from tiny_trainer import PROMPTS, make_trainer, student_of, weights
else:
    from ..process_group import run_python_twice
    from .tiny_trainer import PROMPTS, make_trainer, student_of, weights

RESPONSES = [[(row + place) % 11 for place in range(1 + row % 5)] for row in range(8)]


def learned(folder: Path, rank: int, processes: int) -> dict[str, torch.Tensor]:
    """The gradients of one minibatch, shared by so many processes, each in two parts."""
    trainer = make_trainer(folder, minibatch=8, gradient_accumulation_steps=2)
    own = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    rollouts = score_rollouts(trainer._pair, PROMPTS[own], RESPONSES[own], trainer._settings)
    half = len(rollouts) // 2
    rows = [list(range(half)), list(range(half, len(rollouts)))]
    trainer.gradients(rollouts, rows, trainer._token_scale(rollouts))
    found = {n: p.grad.clone() for n, p in student_of(trainer).named_parameters()}
    return found


def test_gradients_and_a_whole_run(tmp_path: Path) -> None:
    run_python_twice(__file__, str(tmp_path))
    one = learned(tmp_path / "one", 0, 1)
    first, second = (torch.load(tmp_path / f"gradients-{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first, one, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    after = [torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(after[0], after[1], atol=0, rtol=0)
    rows = [row for row in read_metrics(tmp_path / "run") if "reverse_kl" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert (tmp_path / "run/checkpoints/checkpoint-8").is_dir()


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.save(learned(folder / "two", rank, 2), folder / f"gradients-{rank}.pt")
    trainer = make_trainer(folder / "run", max_steps=8)
    trainer.train()
    torch.save(weights(trainer), folder / f"weights-{rank}.pt")
    torch.distributed.destroy_process_group()
