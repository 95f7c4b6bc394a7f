"""One annotation: from records to records with a teacher's rationales and labels."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ConfigError, load_config
from ..data import Annotated, Fields, read_annotated
from .answer_format import UnparsableError
from .answers import Answer, AnswerFile, json_line
from .config import AnnotationConfig
from .demonstrations import FewShot, load_few_shot
from .endpoint import Endpoint
from .errors import AnnotationError
from .progress import Progress
from .teacher import RefusalGuard, Teacher

if TYPE_CHECKING:
    from ...generate import MakeGenerate


@dataclass(frozen=True)
class Outcome:
    """Where the annotated records are, and those that could not be read (None if all could)."""

    output: Path
    unparsable: Path | None
    num_annotated: int
    num_unparsable: int


def annotate(
    config: AnnotationConfig | str | Path, make_generate: "MakeGenerate | None" = None
) -> Outcome:
    """Ask the teacher of `config` (or of the YAML file of that path) about every record.

    Writes to `output` records with the fields input, label (where the data has one), llm_label
    and rationale, in the order of the data; to OUTPUT.unparsable.jsonl those whose answers have
    no rationale or label, with index, text and reason. Answers are kept in OUTPUT.answers.jsonl as
    they come: however a run ends, the next one asks only for what is missing, and another way of
    reading (`markers`, `label_pattern`) costs no new answers. `make_generate` runs a teacher that
    has no `url`; transformers does without it.

    Raises ConfigError, DataError, AnnotationError; what was answered before is written.
    """
    if not isinstance(config, AnnotationConfig):
        config = load_config(config, AnnotationConfig)
    few_shot = load_few_shot(config.demonstrations)
    records = read_annotated(config.data, Fields(config.input_template, config.label_field))
    records = records[: config.limit]
    output = Path(config.output)
    answers_path = output.with_suffix(".answers.jsonl")
    if output.exists() and not answers_path.exists():
        raise ConfigError(
            f"output: {output} exists, but not the answers it was made of ({answers_path.name}); "
            "choose another output"
        )
    sources = [record.source for record in records]
    with AnswerFile(answers_path, _settings(config, few_shot), sources) as answers:
        try:
            _ask(config, few_shot, sources, answers, make_generate)
        except AnnotationError as error:
            raise AnnotationError(
                f"{error}. {len(answers)} of {len(records)} records are answered and kept: the "
                "same command goes on from there"
            ) from error
        finally:
            outcome = _write(output, records, answers, few_shot)
    return outcome


def _settings(config: AnnotationConfig, few_shot: FewShot) -> dict[str, Any]:
    """What answers depend on."""
    prompt = few_shot.messages("") if config.api == "chat" else few_shot.text("")
    return {
        "model": config.model,
        "api": config.api,
        "prompt_sha256": hashlib.sha256(json.dumps(prompt).encode()).hexdigest(),
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "seed": config.seed if config.temperature else None,
        "body": config.body,
    }


def _ask(
    config: AnnotationConfig,
    few_shot: FewShot,
    sources: list[str],
    answers: AnswerFile,
    make_generate: "MakeGenerate | None",
) -> None:
    missing = [(i, source) for i, source in enumerate(sources) if answers.get(i) is None]
    if not missing:
        return
    with (
        Progress(few_shot.format, len(sources)) as progress,
        _teacher(config, few_shot, progress.count_retry, make_generate) as teacher,
    ):
        known = [answer for i in range(len(sources)) if (answer := answers.get(i)) is not None]
        for answer in known:
            progress.count(answer)

        def keep(index: int, answer: Answer) -> None:
            answers.add(index, answer)
            progress.count(answer)

        guard = RefusalGuard(keep, any(answer.refused is None for answer in known))
        teacher.ask(missing, guard)
        guard.close()


@contextmanager
def _teacher(
    config: AnnotationConfig,
    few_shot: FewShot,
    on_retry: Callable[[], None],
    make_generate: "MakeGenerate | None",
) -> Iterator[Teacher]:
    if config.url is not None:
        yield Endpoint(config, few_shot, on_retry)
        return
    from .local_model import local_model  # imports torch, which no remote teacher needs

    with local_model(config, few_shot, make_generate) as teacher:
        yield teacher


def _write(
    output: Path, records: list[Annotated], answers: AnswerFile, few_shot: FewShot
) -> Outcome:
    from ....compress.atomic import write_atomic  # imports torch, which takes seconds

    annotated: list[bytes] = []
    unparsable: list[bytes] = []
    for index, record in enumerate(records):
        answer = answers.get(index)
        if answer is None:
            continue
        row = {"input": record.source}
        if record.label is not None:
            row["label"] = record.label
        try:
            rationale, label = answer.read(few_shot.format)
        except UnparsableError as error:
            told = {"index": index, **row, "text": answer.text, "reason": str(error)}
            unparsable.append(json_line(told))
        else:
            annotated.append(json_line(row | {"llm_label": label, "rationale": rationale}))
    write_atomic(output, annotated)
    apart = output.with_suffix(".unparsable.jsonl")
    if unparsable:
        write_atomic(apart, unparsable)
    else:
        apart.unlink(missing_ok=True)
    return Outcome(output, apart if unparsable else None, len(annotated), len(unparsable))
