"""One PST run: from a configuration to a sparse model that can be served."""

import logging
from pathlib import Path

from transformers import PreTrainedModel

from ...compress.sparse.output_folder import check_free
from ..checkpoints import CHECKPOINTS, checkpoint_to_resume, write_run_config
from ..config import ConfigError, load_config
from ..extras import require_extras
from ..tensorboard import tensorboard_callbacks
from ..trainer_arguments import trainer_arguments
from .artifact import write_artifact
from .config import PSTConfig
from .memory_callback import StepMemory
from .model import load_model
from .pruner import Pruner, prune
from .shares import parameter_shares
from .task import TaskData, read_texts
from .trainer import PSTTrainer

logger = logging.getLogger(__name__)

MODEL = "model"
RESULTS = "results.json"


def train_pst(config: PSTConfig | str | Path, *, resume: bool = False) -> Path:
    """Train by `config` (or the YAML file of that path) and return the folder of the model.

    `resume` goes on from the newest checkpoint under `output_dir`, exactly where it stopped.
    `output_dir` holds the model in `model/` (a sparse checkpoint, or for method dense a plain one),
    `results.json` with all measures, checkpoints in `checkpoints/` and TensorBoard files in
    `runs/`. What is measured at the end is the model as written, in the dtype it is written in.

    Raises ConfigError, DataError, SparsityError.
    """
    if not isinstance(config, PSTConfig):
        config = load_config(config, PSTConfig)
    require_extras("sacrebleu", "torchmetrics", tensorboard=config.tensorboard)
    output = Path(config.output_dir)
    check_free(output / MODEL)
    checkpoint = checkpoint_to_resume(config, output, resume)
    texts = read_texts(config)
    model, tokenizer, fresh = load_model(config, texts.labels)
    data = TaskData(config, texts, model, tokenizer)
    pruner = _pruned(model, config, fresh)
    shares = parameter_shares(pruner)
    write_run_config(config, output)
    memory = StepMemory()
    trainer = PSTTrainer(
        pruner,
        data,
        config,
        trainer_arguments(config, output / CHECKPOINTS, lr_scheduler_type="linear"),
        fresh,
        [
            *([memory] if config.measure_memory else []),
            *tensorboard_callbacks(config.tensorboard, output),
        ],
    )
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    best = trainer.load_best()
    if trainer.args.should_save:
        facts = {
            "method": config.method,
            "task": config.task,
            "steps": trainer.state.global_step,
            "kept_step": best["step"],
            "training_seconds": outcome.metrics["train_runtime"],
            **shares,
            **({"memory": memory.facts} if memory.facts else {}),
        }
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        write_artifact(pruner, data, config, tokenizer, output / MODEL, facts)
    return output / MODEL


def _pruned(model: PreTrainedModel, config: PSTConfig, fresh: list[str]) -> Pruner:
    """Replace the layers, and let what the method trains be trained, in float32."""
    endings = tuple(config.also_train)
    names = dict(model.named_parameters())
    for ending in endings:
        if not any(name.endswith(ending) for name in names):
            raise ConfigError(f"also_train: no parameter's name ends in {ending!r}")
    pruner = prune(model, config.prune_settings)
    for name, parameter in model.named_parameters():
        if name in fresh or (endings and name in names and name.endswith(endings)):
            parameter.requires_grad_(True)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # bfloat16 would lose small updates
    return pruner
