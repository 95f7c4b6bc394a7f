"""One stage of continual pre-training: from a configuration to a model folder."""

import logging
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..accelerate_checkpoints import Checkpoints, Progress
from ..config import ConfigError, load_config
from ..run_log import RunLog, read_metrics
from .checkpoint import checkpoint_to_resume, record_run, recorded_start
from .config import ContinualConfig
from .evaluation import Evaluator
from .model import check_fit, load_architecture, load_weights, new_model, num_parameters
from .objective import AUTO_MODELS, Objective, check_packing, make_objective
from .optimizer import make_optimizers
from .plot import PLOT_NAME, plot_stage
from .schedule import Schedule
from .stage import CHECKPOINTS, PRE_ANNEAL, Stage, Start, find_start
from .stage_data import StageData, open_stage_data, replayed
from .stage_schedule import describe_schedule, make_schedule, pre_anneal_step
from .tokenizer import MAX_SENTINELS, load_tokenizer, train_tokenizer
from .trainer import ContinualTrainer, check_batch
from .weights import move_into, save_weights

logger = logging.getLogger(__name__)

EMPTY_MODEL = "model"
"""Subfolder of the checkpoints: the model's configuration and tokenizer, to resume with."""


def train_continual(
    config: ContinualConfig | str | Path,
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> Path:
    """Train one stage by `config` (or the YAML file of that path); return the model's folder.

    `start_from` begins a new stage with the weights of a model, or of an earlier stage, in place of
    the configuration's; optimizer, schedule and data begin anew. `resume` goes on with the stage of
    this `output_dir` from its newest checkpoint, exactly where it stood: weights, optimizer,
    schedule and data position. They exclude each other.

    `output_dir` gets the model and its tokenizer, `stage.json`, `metrics.jsonl`, `losses.png`,
    `pre_anneal/` (for a schedule with an anneal), `checkpoints/` and `runs/` (TensorBoard). Raises
    ConfigError, SourceError, TokenStoreError, TrainingError.
    """
    if not isinstance(config, ContinualConfig):
        config = load_config(config, ContinualConfig)
    if resume and start_from is not None:
        raise ConfigError(
            "resume and start_from exclude each other: resume goes on with the stage of this "
            "output_dir, start_from begins a new one"
        )
    if start_from is not None:
        config = _started_from(config, str(start_from))
    _require_extras(config)
    folder = Path(config.output_dir) / CHECKPOINTS
    checkpoint = checkpoint_to_resume(folder, config, resume)
    accelerator = _accelerator(config)
    if checkpoint is None and accelerator.is_main_process:
        _begin(config, folder)
    accelerator.wait_for_everyone()
    return _Run(config, folder, accelerator, checkpoint).train()


def _started_from(config: ContinualConfig, name: str) -> ContinualConfig:
    try:
        return replace(config, start_from=name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _require_extras(config: ContinualConfig) -> None:
    needed = ["tensorboard"] * config.tensorboard + ["matplotlib"] * config.plot
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(
            f"training needs {' and '.join(missing)}: pip install 'gistserve[train]' (or set "
            "tensorboard: false, plot: false)"
        )


def _accelerator(config: ContinualConfig) -> Accelerator:
    # Precision and device are kept for the process; an earlier stage in it may have had others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    precision = "bf16" if config.bf16 else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=config.device == "cpu")
    check_batch(config, accelerator.num_processes)
    if config.optimizer == "muon" and accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError("optimizer: muon needs whole matrices, FSDP splits them: use adamw")
    return accelerator


def _begin(config: ContinualConfig, folder: Path) -> None:
    """Write down what the stage begins with: settings, tokenizer, the model's configuration."""
    start = None if config.start_from is None else find_start(config.start_from)
    if start is not None:
        tokenizer = load_tokenizer(start.weights)
        architecture = load_architecture(start.weights)
    elif config.new_model is not None:
        tokenizer = _tokenizer_of_new_model(config)
        with torch.device("meta"):
            architecture = new_model(config.new_model, tokenizer, config.objective).config
    else:
        raise ConfigError("give one of start_from (a model's or stage's folder) and new_model")
    try:
        (folder / EMPTY_MODEL).mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder / EMPTY_MODEL)
        architecture.save_pretrained(folder / EMPTY_MODEL)
        record_run(folder, config, start)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be written: {error.strerror}") from error


def _recompute_activations(model: PreTrainedModel) -> None:
    # The newer name came with transformers 5.2x, the older one goes with 6.
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})


def _tokenizer_of_new_model(config: ContinualConfig) -> PreTrainedTokenizerBase:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    assert config.vocabulary_size is not None
    sentinels = MAX_SENTINELS if config.objective == "span_corruption" else 0
    sources = [*config.replay, *config.new]
    return train_tokenizer(sources, config.vocabulary_size, sentinels=sentinels)


@dataclass(frozen=True)
class _Run:
    """A stage that has begun: its settings, tokenizer and architecture lie in `folder`."""

    config: ContinualConfig
    folder: Path
    accelerator: Accelerator
    checkpoint: Path | None

    def train(self) -> Path:
        start = recorded_start(self.folder)
        tokenizer = load_tokenizer(str(self.folder / EMPTY_MODEL))
        model = self._model(start)
        parameters = num_parameters(model)
        objective = self._objective(model, tokenizer)
        data = open_stage_data(self.config, tokenizer)
        schedule = make_schedule(
            self.config, data.total_steps, None if start is None else start.plateau
        )
        trainer = self._trainer(model, tokenizer, objective, data, schedule)
        validation = self._run(trainer)
        save_weights(self.accelerator, trainer.model, tokenizer, self.folder / "final")
        if self.accelerator.is_main_process:
            stage = self._stage(start, data, schedule, trainer.progress, parameters, validation)
            self._finish(stage)
        self.accelerator.wait_for_everyone()
        return self.folder.parent

    def _model(self, start: Start | None) -> PreTrainedModel:
        config = self.config
        set_seed(config.seed)
        if self.checkpoint is None and start is not None:
            model = load_weights(start.weights, config.objective, config.attn_implementation)
        else:
            model = AUTO_MODELS[config.objective].from_config(
                load_architecture(self.folder / EMPTY_MODEL),
                attn_implementation=config.attn_implementation,
                dtype=torch.float32,
            )
        if config.gradient_checkpointing:
            _recompute_activations(model)
        set_seed(config.seed + self.accelerator.process_index)
        return model

    def _objective(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Objective:
        config = self.config
        check_fit(model, tokenizer, config.sequence_length)
        objective = make_objective(
            config.objective,
            model,
            tokenizer,
            length=config.sequence_length,
            share=config.corrupted_share,
            mean_span=config.mean_span,
        )
        # The main process alone: under FSDP the others may hold no weights yet.
        if self.checkpoint is None and self.accelerator.is_main_process:
            check_packing(objective, model, config.sequence_length)
        return objective

    def _trainer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        data: StageData,
        schedule: Schedule,
    ) -> ContinualTrainer:
        config, accelerator = self.config, self.accelerator
        first, second = config.adam_betas
        optimizers = make_optimizers(
            model, config.optimizer, weight_decay=config.weight_decay, betas=(first, second)
        )
        prepared, *optimizers = accelerator.prepare(model, *optimizers)
        checkpoints = Checkpoints(self.folder, accelerator, config.save_total_limit)
        before = pre_anneal_step(schedule)
        return ContinualTrainer(
            config,
            accelerator,
            prepared,
            tokenizer,
            optimizers,
            objective,
            data.batches(objective),
            schedule,
            Evaluator(data.held_out(objective), objective, accelerator, config.micro_batch_size),
            checkpoints,
            data.total_steps,
            checkpoints.restore(self.checkpoint) if self.checkpoint else Progress(),
            None if before is None else (before, self.folder.parent / PRE_ANNEAL),
        )

    def _run(self, trainer: ContinualTrainer) -> dict[str, Any]:
        if not self.accelerator.is_main_process:
            return trainer.run(None)
        log = RunLog(self.folder.parent, trainer.progress.step, self.config.tensorboard)
        try:
            return trainer.run(log)
        finally:
            log.close()

    def _stage(
        self,
        start: Start | None,
        data: StageData,
        schedule: Schedule,
        progress: Progress,
        parameters: int,
        validation: dict[str, Any],
    ) -> Stage:
        config, length = self.config, self.config.sequence_length
        before = pre_anneal_step(schedule)
        rows = data.mixture.totals(progress.step)
        names = [source.name for source in data.sources]
        return Stage(
            started_from=None if start is None else start.name,
            schedule=describe_schedule(config, schedule),
            steps=progress.step,
            tokens=progress.step * config.batch_size * length,
            tokens_by_source={n: r * length for n, r in zip(names, rows, strict=True)},
            replay_ratio=config.replay_ratio if replayed(config) else 0.0,
            objective=config.objective,
            parameters=parameters,
            seconds=progress.seconds,
            validation=validation,
            pre_anneal=None if before is None else PRE_ANNEAL,
            pre_anneal_step=before,
            earlier=[] if start is None else start.earlier,
        )

    def _finish(self, stage: Stage) -> None:
        """Move the weights into place; `stage.json`, last, says that all is there."""
        output = self.folder.parent
        move_into(self.folder / "final", output)
        if self.config.plot:
            plot_stage(read_metrics(output), output / PLOT_NAME)
        stage.save(output)
        logger.info("stage of %d steps written to %s", stage.steps, output)
