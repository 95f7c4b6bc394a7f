"""One distillation run: from a configuration to a student that can be served."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ...compress.sparse.output_folder import check_free
from ..accelerate_checkpoints import saved_checkpoints
from ..checkpoints import (
    CHECKPOINTS,
    RUN_CONFIG,
    check_same_settings,
    newest_checkpoint,
    write_run_config,
)
from ..config import ConfigError, load_config
from ..extras import require_extras
from ..generate import GenerateTexts, MakeGenerate, SamplingSettings, TransformersGenerate
from ..records import hold_out
from ..tensorboard import tensorboard_callbacks
from .artifact import MODEL, write_artifact
from .config import MiniLLMConfig
from .data import Pair, read_pairs
from .evaluation import Evaluation, Measures
from .fine_tuning import Phase, fine_tune
from .models import load_models
from .on_policy import learn_on_policy
from .spread import SpreadGenerate
from .teacher_responses import TeacherResponses
from .template import PromptTemplate

WARM_START = "warm_start"
TEACHER_RESPONSES = "teacher_responses.jsonl"


def train_minillm(
    config: MiniLLMConfig | str | Path,
    *,
    resume: bool = False,
    make_generate: MakeGenerate | None = None,
) -> Path:
    """Train by `config` (or the YAML file of that path) and return the folder of the student.

    `resume` goes on with the run under `output_dir`, exactly where it stopped. `output_dir` holds
    the student in `model/`, `results.json` with all measures, checkpoints in `checkpoints/`, those
    of minillm's first phase in `warm_start/`, TensorBoard files in `runs/`. `make_generate`:
    runs the teacher while it writes the responses of method seqkd, where it can; by default
    transformers does.

    Raises ConfigError, DataError; SparsityError where `model/` is not free.
    """
    if not isinstance(config, MiniLLMConfig):
        config = load_config(config, MiniLLMConfig)
    require_extras("torchmetrics", tensorboard=config.tensorboard)
    output = Path(config.output_dir)
    check_free(output / MODEL)
    _check_start(config, output, resume)
    PartialState(cpu=config.device == "cpu")  # before anything asks for a device
    return _Run(config, output, make_generate).result()


class _Run:
    """The parts of a run, made in their order."""

    def __init__(
        self, config: MiniLLMConfig, output: Path, make_generate: MakeGenerate | None
    ) -> None:
        self._config = config
        self._output = output
        self._models = load_models(config)
        self._template = PromptTemplate(config.prompt_template, self._models.tokenizer)
        self._train, self._validation, self._test = self._read()
        self._evaluation = Evaluation(self._models, self._template, config)
        self._make_generate = make_generate

    def result(self) -> Path:
        """Train, measure, and write the student."""
        config = self._config
        write_run_config(config, self._output)
        facts = self._minillm() if config.method == "minillm" else self._baseline()
        facts["measures"] = {"validation": self._evaluation.validation(self._validation)}
        if self._test is not None:
            facts["measures"]["test"] = self._evaluation.test(self._test)
        write_artifact(self._models, self._template, config, self._output / MODEL, facts)
        return self._output / MODEL

    def _read(self) -> tuple[list[Pair], list[Pair], list[Pair] | None]:
        config = self._config

        def read(place: str) -> list[Pair]:
            return read_pairs(place, config, self._template)

        train = read(config.train_data)
        if config.validation_data is not None:
            validation = read(config.validation_data)
        else:
            train, validation = hold_out(train, config.validation_share, config.seed)
        return train, validation, None if config.test_data is None else read(config.test_data)

    def _baseline(self) -> dict[str, Any]:
        config = self._config
        train = self._teacher_pairs() if config.method == "seqkd" else self._train
        phase = Phase(
            folder=self._output,
            train=train,
            validation=self._validation,
            validate=self._validate,
            score=self._score,
            kd_share=config.kd_share if config.method == "kd" else 0.0,
            callbacks=tensorboard_callbacks(config.tensorboard, self._output),
        )
        return fine_tune(config, self._models, phase)

    def _minillm(self) -> dict[str, Any]:
        config = self._config
        facts: dict[str, Any] = {}
        if config.sft_epochs:
            phase = Phase(
                folder=self._output / WARM_START,
                train=self._train,
                validation=self._validation,
                validate=self._evaluation.loss,
                score=lambda measures: -measures["loss"],
                callbacks=tensorboard_callbacks(config.tensorboard, self._output / WARM_START),
            )
            facts["warm_start"] = fine_tune(config, self._models, phase)
        return facts | learn_on_policy(
            config,
            self._models,
            self._train,
            self._output,
            validate=lambda: self._validate(self._validation),
            score=self._score,
        )

    def _score(self, measures: Measures) -> float:
        """What the best state has most of."""
        select_by = self._config.select_by
        return measures[select_by] * (1 if select_by == "rouge_l" else -1)

    def _validate(self, pairs: Sequence[Pair]) -> Measures:
        if self._config.select_by == "loss":
            return self._evaluation.loss(pairs)
        return self._evaluation.validation(pairs)

    def _teacher_pairs(self) -> list[Pair]:
        config = self._config
        assert config.teacher is not None
        responses = TeacherResponses(
            path=Path(config.teacher_responses or self._output / TEACHER_RESPONSES),
            teacher=config.teacher,
            settings=SamplingSettings(config.max_new_tokens, config.temperature, config.seed),
            make_generate=self._teacher_generate,
            template=self._template,
            end_ids=self._models.end_ids,
        )
        return responses.pairs(self._train)

    @contextmanager
    def _teacher_generate(self) -> Iterator[GenerateTexts]:
        """What the teacher writes with: a copy of it, since an engine may rebuild its model."""
        models = self._models
        assert models.teacher is not None  # the settings ask for one with this method
        teacher = copy.deepcopy(models.teacher).to(PartialState().device)
        teacher.generation_config.eos_token_id = sorted(models.end_ids)
        with nullcontext() if self._make_generate is None else self._make_generate(teacher) as made:
            size = self._config.generation_batch_size
            yield SpreadGenerate(
                made or TransformersGenerate(teacher, models.end_ids, models.pad_id, size)
            )


def _check_start(config: MiniLLMConfig, output: Path, resume: bool) -> None:
    """ConfigError for what would overwrite a run or mix two."""
    if resume:
        if not (output / CHECKPOINTS / RUN_CONFIG).is_file():
            raise ConfigError(f"there is no run under {output} to resume")
        check_same_settings(config, output)
        return
    for folder in (output, output / WARM_START):
        if newest_checkpoint(folder) or saved_checkpoints(folder / CHECKPOINTS):
            raise ConfigError(
                f"{folder} holds checkpoints of an earlier run: resume it, or choose another "
                "output_dir"
            )
