"""One step-by-step run: from a configuration to a model that can be served."""

from pathlib import Path

from ...compress.errors import SparsityError
from ...compress.sparse.output_folder import check_free
from ..checkpoints import CHECKPOINTS, checkpoint_to_resume, write_run_config
from ..config import ConfigError, load_config
from ..extras import require_extras
from ..tensorboard import tensorboard_callbacks
from ..trainer_arguments import trainer_arguments
from .artifact import write_artifact
from .config import StepByStepConfig
from .model import load_student
from .task_data import TaskData, read_task
from .trainer import StepByStepTrainer

MODEL = "model"


def train_step_by_step(config: StepByStepConfig | str | Path, *, resume: bool = False) -> Path:
    """Train by `config` (or the YAML file of that path) and return the folder of the model.

    `resume` goes on from the newest checkpoint under `output_dir`, exactly where it stopped.
    `output_dir` holds the model in `model/`, `results.json` with all measures, checkpoints in
    `checkpoints/` and TensorBoard files in `runs/`. What is measured at the end is the model as
    written, in float32.

    Raises ConfigError, DataError.
    """
    if not isinstance(config, StepByStepConfig):
        config = load_config(config, StepByStepConfig)
    require_extras("torchmetrics", tensorboard=config.tensorboard)
    output = Path(config.output_dir)
    _require_free(output / MODEL)
    checkpoint = checkpoint_to_resume(config, output, resume)
    records = read_task(config)
    model, tokenizer = load_student(config)
    data = TaskData(config, records, model, tokenizer)
    write_run_config(config, output)
    trainer = StepByStepTrainer(
        model,
        data,
        config,
        trainer_arguments(config, output / CHECKPOINTS, lr_scheduler_type=config.lr_scheduler),
        tensorboard_callbacks(config.tensorboard, output),
    )
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    best = trainer.load_best()
    if trainer.args.should_save:
        facts = {
            "method": config.method,
            "labels": config.labels,
            "steps": trainer.state.global_step,
            "kept_step": best["step"],
            "training_seconds": outcome.metrics["train_runtime"],
        }
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        write_artifact(model, data, config, tokenizer, output / MODEL, facts)
    return output / MODEL


def _require_free(folder: Path) -> None:
    try:
        check_free(folder)
    except SparsityError as error:
        raise ConfigError(f"output_dir: {error}") from error
