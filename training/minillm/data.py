"""Prompts and responses of a run, as text and as token ids.

Records (records.py tells where they may lie) are

    {"prompt": "...", "response": "..."}                     the fields can be renamed
    {"instruction": "...", "input": "...", "output": "..."}  context and response work as well

The first kind is for the templates `plain` and `chat`, the second for `instruction`. A plain
response follows its prompt as it is written, white space included.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..records import DataError, read_records, read_text
from .config import MiniLLMConfig
from .template import PromptTemplate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A prompt and its response in the data.

    `prompt_ids`: what the model reads. `response_ids`: what it is to write, with an end token,
    unless the response was cut off. `prompt`, `response`: the texts.
    """

    prompt: str
    response: str
    prompt_ids: list[int]
    response_ids: list[int]


def read_pairs(place: str, config: MiniLLMConfig, template: PromptTemplate) -> list[Pair]:
    """The pairs of `place` that fit the limits. Raises DataError."""
    pairs = []
    total = 0
    for where, record in read_records(place):
        total += 1
        pair = _pair(record, where, config, template)
        if _fits(pair, config):
            pairs.append(pair)
    if not total:
        raise DataError(f"{place} holds no example")
    if not pairs:
        raise DataError(
            f"{place}: all {total} examples are over max_prompt_tokens "
            f"({config.max_prompt_tokens}) or max_new_tokens ({config.max_new_tokens}); raise them"
        )
    if len(pairs) < total:
        logger.warning(
            "%s: %d of %d examples have more than %d + %d tokens and are left out",
            place,
            total - len(pairs),
            total,
            config.max_prompt_tokens,
            config.max_new_tokens,
        )
    return pairs


def distinct_prompts(pairs: Sequence[Pair]) -> list[list[int]]:
    """The prompts' token ids, each once, in the order of their first pair."""
    return list(map(list, dict.fromkeys(tuple(pair.prompt_ids) for pair in pairs)))


def _pair(
    record: dict[str, Any], where: str, config: MiniLLMConfig, template: PromptTemplate
) -> Pair:
    if config.prompt_template == "instruction":
        instruction = read_text(record, "instruction", where)
        given = _optional(record, ("input", "context"), where)
        prompt = template.instruction(instruction, given)
        response = read_text(record, "output" if "output" in record else "response", where)
    else:
        _check_fields(record, where, config)
        prompt = read_text(record, config.prompt_field, where)
        response = read_text(record, config.response_field, where)
    try:
        prompt_ids, response_ids = template.encode(prompt, response)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return Pair(prompt, response, prompt_ids, response_ids)


def _check_fields(record: dict[str, Any], where: str, config: MiniLLMConfig) -> None:
    if config.prompt_field not in record and "instruction" in record:
        raise DataError(
            f"{where}: the field {config.prompt_field} is missing, but there is an instruction; "
            "set prompt_template: instruction"
        )


def _optional(record: dict[str, Any], fields: Sequence[str], where: str) -> str:
    for field in fields:
        if record.get(field):
            return read_text(record, field, where)
    return ""


def _fits(pair: Pair, config: MiniLLMConfig) -> bool:
    return (
        0 < len(pair.prompt_ids) <= config.max_prompt_tokens
        and len(pair.response_ids) <= config.max_new_tokens
    )
