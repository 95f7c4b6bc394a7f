"""MiniLLM's training loop (arXiv 2306.08543, algorithm 1): sample a buffer, learn it, again."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm
from transformers import get_scheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from ..accelerate_checkpoints import Checkpoints, Progress
from ..config import ConfigError
from ..continual.optimizer import make_optimizers
from ..run_log import RunLog
from .buffers import BufferPlan
from .config import MiniLLMConfig
from .language import LanguageRows
from .loss import MiniLLMLoss, ObjectiveSettings
from .rollouts import ModelPair, Rollouts, RolloutSettings, sample_rollouts
from .step_sums import StepSums

Evaluate = Callable[[int], dict[str, float]]
"""Measures the student after so many steps, and keeps it where it is the best so far."""


class MiniLLMTrainer:
    """Trains the student of `pair` on responses to `prompts` (token ids, at least one a prompt).

    The state between two buffers is weights, optimizer, learning-rate schedule and the number of
    steps done; all that is random is a function of the seed and that number. Checkpoints are taken
    there, so that a resumed run equals an uninterrupted one. Dropout stays off: the distribution
    that is learned is the one that was sampled. language_rows: documents of the language-modelling
    loss, or None. end_ids: tokens that end a response. Checkpoints go to `checkpoints/` under
    `folder`, figures to `metrics.jsonl` and `runs/`.
    """

    def __init__(
        self,
        config: MiniLLMConfig,
        accelerator: Accelerator,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        pad_id: int,
        folder: Path,
        evaluate: Evaluate,
        language_rows: LanguageRows | None = None,
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._pair = pair
        self._prompts = prompts
        self._folder = folder
        self._evaluate_student = evaluate
        self._language_rows = language_rows
        self._settings = RolloutSettings(
            alpha=config.teacher_mix,
            max_new_tokens=config.max_new_tokens,
            end_ids=end_ids,
            pad_id=pad_id,
            batch_size=config.generation_batch_size,
        )
        self.plan = BufferPlan(
            num_prompts=len(prompts),
            rollouts=config.rollouts,
            minibatch=config.minibatch,
            inner_epochs=config.inner_epochs,
            seed=config.seed,
            accumulation=config.gradient_accumulation_steps,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.progress = Progress()
        self._sums = StepSums()
        self._prepare()

    def train(self, resume_from_checkpoint: Path | None = None) -> Progress:
        """Train to `max_steps`, from a checkpoint where one is given; where the run then stands."""
        checkpoints = self._checkpoints()
        if resume_from_checkpoint is not None:
            self.progress = checkpoints.restore(resume_from_checkpoint)
        log = self._open_log()
        bar = tqdm(
            total=self._config.max_steps,
            initial=self.progress.step,
            desc="distilling",
            disable=not self._accelerator.is_main_process,
        )
        try:
            if self.progress.step == 0:
                self._evaluate(log)
            while self.progress.step < self._config.max_steps:
                before = self.progress.step
                self._learn(self._sample(), log, bar)
                if self._due(before, self._config.eval_steps):
                    self._evaluate(log)
                if self._due(before, self._config.save_steps):
                    checkpoints.save(self.progress)
        finally:
            bar.close()
            if log is not None:
                log.close()
        return self.progress

    def _prepare(self) -> None:
        config, student = self._config, self._pair.student.model
        student.to(self._accelerator.device)
        self._pair.teacher.model.to(self._accelerator.device).eval().requires_grad_(False)
        if config.gradient_checkpointing:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        settings = ObjectiveSettings(config.clip, config.length_normalisation, config.single_step)
        [optimizer] = make_optimizers(
            student, "adamw", weight_decay=config.weight_decay, betas=(0.9, 0.999)
        )
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate
        self._loss, self._optimizer = self._accelerator.prepare(
            MiniLLMLoss(self._pair, settings), optimizer
        )
        steps = config.warmup * config.max_steps if config.warmup < 1 else config.warmup
        self._schedule = get_scheduler(
            config.lr_scheduler, optimizer, math.ceil(steps), config.max_steps
        )
        self._accelerator.register_for_checkpointing(self._schedule)

    def _checkpoints(self) -> Checkpoints:
        folder = self._folder / "checkpoints"
        return Checkpoints(folder, self._accelerator, self._config.save_total_limit)

    def _open_log(self) -> RunLog | None:
        if not self._accelerator.is_main_process:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        return RunLog(self._folder, self.progress.step, self._config.tensorboard)

    def _due(self, before: int, every: int) -> bool:
        """Whether a multiple of `every` steps, or the end, lies in the buffer just learned."""
        step = self.progress.step
        return step // every > before // every or step >= self._config.max_steps

    def _evaluate(self, log: RunLog | None) -> None:
        self._pair.student.model.eval()
        with self._accelerator.autocast():
            measures = self._evaluate_student(self.progress.step)
        if log is not None:
            log.write(self.progress.step, validation=measures)

    def _sample(self) -> Rollouts:
        buffer = self.progress.step // self.plan.steps
        prompts = [self._prompts[index] for index in self.plan.prompts(buffer)]
        self._pair.student.model.eval()
        began = time.perf_counter()
        with self._accelerator.autocast():
            rollouts = sample_rollouts(
                self._pair, prompts, self._settings, self.plan.sampling_seed(buffer)
            )
        seconds = time.perf_counter() - began
        self.progress.seconds += seconds
        self._sums.sampled(rollouts, seconds, self._settings.end_ids)
        return rollouts

    def _learn(self, rollouts: Rollouts, log: RunLog | None, bar: tqdm) -> None:
        config = self._config
        scale = self._token_scale(rollouts)
        for rows in self.plan.minibatches(self.progress.step // self.plan.steps):
            began = time.perf_counter()
            self._step(rollouts, rows, scale)
            self.progress.step += 1
            self.progress.seconds += time.perf_counter() - began
            bar.update()
            if self.progress.step % config.logging_steps == 0:
                self._report(log, bar)
            if self.progress.step == config.max_steps:
                return

    def _token_scale(self, rollouts: Rollouts) -> float:
        """1 over the tokens that a minibatch has on average in this buffer.

        The paper's loss is a mean over responses of sums over tokens. Divided by the mean length of
        the buffer's responses, a constant, its size is that of one token's loss, whatever the
        length: max_grad_norm and lm_weight keep their meaning.
        """
        tokens = torch.tensor(float(rollouts.tokens), device=self._accelerator.device)
        total = float(self._accelerator.reduce(tokens, "sum"))
        return self._config.rollouts / (self._config.minibatch * total)

    def _step(self, rollouts: Rollouts, rows: list[list[int]], scale: float) -> None:
        self.gradients(rollouts, rows, scale)
        parameters = self._pair.student.model.parameters()
        norm = self._accelerator.clip_grad_norm_(parameters, self._config.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        self._sums.stepped(float(norm))

    def gradients(self, rollouts: Rollouts, rows: list[list[int]], scale: float) -> None:
        """Add the gradients of the loss of one minibatch, whose parts are `rows` of `rollouts`."""
        self._ready_to_learn()
        documents = self._documents()
        # Gradients are averaged over the processes, but each has a part of the sum.
        processes = self._accelerator.num_processes
        for index, part in enumerate(rows):
            last = index == len(rows) - 1
            waiting = contextlib.nullcontext() if last else self._accelerator.no_sync(self._loss)
            with waiting:
                losses = self._loss(
                    rollouts.rows(part),
                    scale * processes,
                    documents[index] if documents else None,
                    self._document_scale(documents) * processes,
                )
                self._accelerator.backward(losses.pop("loss"))
            self._sums.learned(losses)

    def _documents(self) -> list[Tensor]:
        """This process's documents of the step at hand, in as many parts as the minibatch."""
        if self._language_rows is None:
            return []
        row, device = self._language_rows, self._accelerator.device
        parts = self.plan.documents(self.progress.step)
        return [torch.tensor([row(index) for index in part], device=device) for part in parts]

    def _document_scale(self, documents: list[Tensor]) -> float:
        if not documents:
            return 0.0
        return self._config.lm_weight / (self._config.minibatch * (documents[0].shape[1] - 1))

    def _ready_to_learn(self) -> None:
        student = self._pair.student.model
        student.eval()
        if self._config.gradient_checkpointing:
            for module in student.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True  # of the layer alone: no dropout inside it

    def _report(self, log: RunLog | None, bar: tqdm) -> None:
        figures = self._sums.report(self._accelerator)
        step, rate = self.progress.step, self._schedule.get_last_lr()[0]
        if not all(math.isfinite(value) for value in figures.values()):
            raise ConfigError(
                f"the loss is no number at step {step}, learning rate {rate:g}: lower "
                "learning_rate or max_grad_norm, or lengthen warmup"
            )
        bar.set_postfix(kl=f"{figures['reverse_kl']:.4f}", tokens=f"{figures['tokens']:.1f}")
        if log is not None:
            log.write(step, learning_rate=rate, seconds=self.progress.seconds, **figures)
