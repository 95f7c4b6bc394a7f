"""The training loop of a stage."""

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..accelerate_checkpoints import Checkpoints, Progress
from ..config import ConfigError
from ..run_log import RunLog
from .batches import Batches, num_labels, part
from .causal import Batch
from .config import ContinualConfig
from .evaluation import Evaluator
from .loss import summed_loss
from .objective import Objective
from .schedule import Schedule
from .weights import save_weights


class TrainingError(RuntimeError):
    """Training went wrong; the message says what to change."""


class ContinualTrainer:
    """Runs the steps of one stage.

    The state between two steps is the weights, the optimizers, the random generators and the number
    of steps done; batches and learning rates are functions of that number.
    """

    def __init__(
        self,
        config: ContinualConfig,
        accelerator: Accelerator,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        optimizers: Sequence[torch.optim.Optimizer],
        objective: Objective,
        batches: Batches,
        schedule: Schedule,
        evaluator: Evaluator,
        checkpoints: Checkpoints,
        total_steps: int,
        progress: Progress,
        pre_anneal: tuple[int, Path] | None = None,
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self.model = model
        self._tokenizer = tokenizer
        self._optimizers = optimizers
        self._objective = objective
        self._batches = batches
        self._schedule = schedule
        self._evaluator = evaluator
        self._checkpoints = checkpoints
        self._total = total_steps
        self.progress = progress
        self._pre_anneal = pre_anneal
        self._losses: list[Tensor] = []
        self._norm: Tensor | float = 0.0
        self._validation: dict[str, Any] | None = None

    def run(self, log: RunLog | None) -> dict[str, Any]:
        """Train to the last step; the final validation. `log` on the main process only."""
        config, progress = self._config, self.progress
        bar = tqdm(
            total=self._total,
            initial=progress.step,
            desc="training",
            disable=log is None or not config.progress,
        )
        if progress.step == 0:
            self._evaluate(log)
        self.model.train()
        while progress.step < self._total:
            began = time.perf_counter()
            rate = self._step(progress.step)
            progress.step += 1
            progress.seconds += time.perf_counter() - began
            bar.update()
            saving = self._due(config.save_steps)
            if saving or self._due(config.logging_steps):
                bar.set_postfix(loss=f"{self._log(log, rate):.4f}", lr=f"{rate:.2e}")
            if self._due(config.eval_steps):
                self._evaluate(log)
            if self._pre_anneal and progress.step == self._pre_anneal[0]:
                save_weights(self._accelerator, self.model, self._tokenizer, self._pre_anneal[1])
            if saving:
                self._checkpoints.save(progress)
        bar.close()
        return self._evaluate(None) if self._validation is None else self._validation

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self._total

    def _step(self, step: int) -> float:
        """One update; its learning rate."""
        rate = self._schedule.rate(step + 1)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self._losses.append(self._gradients(self._batches.batch(step)))
        self._norm = self._accelerator.clip_grad_norm_(
            self.model.parameters(), self._config.max_grad_norm
        )
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return rate

    def _gradients(self, batch: Batch) -> Tensor:
        """Accumulate the gradients of the mean loss over the whole batch; this process's part."""
        scale = 1 / max(1, num_labels(batch))
        own = self._own_rows(batch)
        size = self._config.micro_batch_size
        starts = range(0, len(own["labels"]), size)
        total = torch.zeros((), device=self._accelerator.device)
        for start in starts:
            micro = part(own, start, start + size)
            micro = {name: tensor.to(total.device) for name, tensor in micro.items()}
            last = start == starts[-1]
            waiting = contextlib.nullcontext() if last else self._accelerator.no_sync(self.model)
            with waiting:
                logits = self._objective.logits(self.model, micro)
                loss = summed_loss(logits, micro["labels"]) * scale
                # Gradients are averaged over the processes, but each has a part of the sum.
                self._accelerator.backward(loss * self._accelerator.num_processes)
            total += loss.detach()
        return total

    def _own_rows(self, batch: Batch) -> Batch:
        """This process's rows of a batch."""
        rows = self._config.batch_size // self._accelerator.num_processes
        first = self._accelerator.process_index * rows
        return part(batch, first, first + rows)

    def _log(self, log: RunLog | None, rate: float) -> float:
        """Report the mean loss since the last report."""
        mean = self._accelerator.reduce(torch.stack(self._losses).mean(), "sum")
        self._losses.clear()
        loss, step = float(mean), self.progress.step
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step}, learning rate {rate:g}: lower learning_rate "
                "or max_grad_norm, or lengthen warmup"
            )
        if log is not None:
            log.write(
                step,
                tokens=self._tokens(),
                loss=loss,
                learning_rate=rate,
                grad_norm=float(self._norm),
                seconds=self.progress.seconds,
            )
        return loss

    def _evaluate(self, log: RunLog | None) -> dict[str, Any]:
        self._validation = self._evaluator.run(self.model)
        if log is not None and self._validation["sources"]:
            log.write(self.progress.step, tokens=self._tokens(), validation=self._validation)
        return self._validation

    def _tokens(self) -> int:
        return self.progress.step * self._config.batch_size * self._config.sequence_length


def check_batch(config: ContinualConfig, processes: int) -> None:
    """Raise ConfigError unless the rows of a step divide among processes and forward passes."""
    own, rest = divmod(config.batch_size, processes)
    if rest or own % min(own, config.micro_batch_size):
        raise ConfigError(
            f"batch_size {config.batch_size} rows cannot be shared by {processes} process(es) in "
            f"forward passes of micro_batch_size {config.micro_batch_size}: make it a multiple"
        )
