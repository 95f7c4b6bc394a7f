"""The teacher's own responses to the training prompts, kept in a file (sequence-level KD)."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from ..generate import GenerateTexts, SamplingSettings
from ..records import DataError
from .data import Pair
from .template import PromptTemplate

CHUNK = 256
"""Prompts between two writes: what a killed run may lose. Each chunk has a seed of its own, so that
the responses are the same however often the run is interrupted."""


class TeacherResponses:
    """A JSONL file of the teacher's responses, and beside it (`.settings.json`) what made them.

    path: of the file. teacher: the model's name. settings: how responses are drawn. make_generate:
    makes what draws them, if any are missing. A file that is whole is only read; one that was cut
    off is gone on with.
    """

    def __init__(
        self,
        path: Path,
        teacher: str,
        settings: SamplingSettings,
        make_generate: Callable[[], AbstractContextManager[GenerateTexts]],
        template: PromptTemplate,
        end_ids: frozenset[int],
    ) -> None:
        self._path = path
        self._teacher = teacher
        self._settings = settings
        self._make_generate = make_generate
        self._template = template
        self._end_ids = end_ids

    def pairs(self, data: Sequence[Pair]) -> list[Pair]:
        """The prompts of `data` with the teacher's responses in place of the data's.

        DataError where the file is of other prompts, another teacher or other settings.
        """
        prompts = [pair.prompt_ids for pair in data]
        if PartialState().is_main_process:
            self._check_settings(prompts)
        PartialState().wait_for_everyone()
        responses = self._written()[: len(data)]
        PartialState().wait_for_everyone()
        if len(responses) < len(data):
            with self._make_generate() as generate:
                self._write_missing(generate, data, responses)
        return [
            Pair(pair.prompt, self._template.decode(pair.prompt_ids, ids), pair.prompt_ids, ids)
            for pair, ids in zip(data, responses, strict=True)
        ]

    def _write_missing(
        self, generate: GenerateTexts, data: Sequence[Pair], responses: list[list[int]]
    ) -> None:
        """Append what is missing to `responses` and to the file, chunk by chunk."""
        starts = range(len(responses), len(data), CHUNK)
        for start in tqdm(starts, desc="teacher's responses", unit=f" x {CHUNK}", mininterval=1):
            chunk = data[start : start + CHUNK]
            settings = replace(self._settings, seed=self._settings.seed + start)
            written = generate([pair.prompt_ids for pair in chunk], settings)
            responses.extend(written)
            if PartialState().is_main_process:
                self._append(chunk, written)

    def _append(self, chunk: Sequence[Pair], responses: list[list[int]]) -> None:
        lines = [
            json.dumps(
                {
                    "prompt": pair.prompt,
                    "response": self._template.decode(pair.prompt_ids, ids),
                    "response_ids": ids,
                    "ended": bool(ids) and ids[-1] in self._end_ids,
                },
                ensure_ascii=False,
            )
            for pair, ids in zip(chunk, responses, strict=True)
        ]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))

    def _written(self) -> list[list[int]]:
        """Responses of the whole chunks in the file; what follows them is cut off."""
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        facts = json.loads(self._settings_path.read_text(encoding="utf-8"))
        if len(whole) < facts["prompts"]:
            whole = whole[: len(whole) // CHUNK * CHUNK]
        if len(whole) < len(lines) and PartialState().is_main_process:
            self._path.write_bytes(b"".join(whole))
        try:
            return [json.loads(line)["response_ids"] for line in whole]
        except (ValueError, KeyError) as error:
            raise DataError(f"{self._path} is damaged ({error}); delete it") from error

    @property
    def _settings_path(self) -> Path:
        return self._path.with_name(self._path.name + ".settings.json")

    def _check_settings(self, prompts: list[list[int]]) -> None:
        facts: dict[str, Any] = {
            "teacher": self._teacher,
            "prompts": len(prompts),
            "prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            "max_new_tokens": self._settings.max_new_tokens,
            "temperature": self._settings.temperature,
        }
        if not self._settings_path.exists():
            if self._path.exists():
                raise DataError(
                    f"{self._path} has no {self._settings_path.name} that tells what made it; to "
                    "train on given responses, name the file as train_data of method sft"
                )
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._settings_path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            return
        known = json.loads(self._settings_path.read_text(encoding="utf-8"))
        if other := [name for name in facts if known.get(name) != facts[name]]:
            raise DataError(
                f"{self._path} holds responses of other {', '.join(other)}; name another file as "
                "teacher_responses, or delete it"
            )
