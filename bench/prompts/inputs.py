"""Prompts and labelled inputs as they are named on the command line."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from ...training.records import DataError, read_records, read_text
from ..load.errors import LoadError
from ..load.workload import read_prompt
from .settings import Labelled


def parse_lengths(text: str) -> tuple[int, ...]:
    """Token counts out of "64,256,1024", ascending. Raises LoadError for anything else."""
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise LoadError(f"{text!r} are no lengths; write them as 64,256,1024.") from error
    if counts[0] < 1:
        raise LoadError(f"{counts[0]} is no length of a prompt; it must be at least 1 token.")
    return tuple(counts)


def read_prompts(paths: Iterable[Path]) -> dict[str, str]:
    """Texts by file name; of a folder all files in it, by name.

    Raises:
        LoadError: a file that cannot be read or is empty, two of one name, or an empty folder.
    """
    found: dict[str, str] = {}
    for path in paths:
        files = (
            sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        )
        if not files:
            raise LoadError(f"There is no file in {path}.")
        for file in files:
            if file.name in found:
                raise LoadError(f"Two prompts are called {file.name}; rename one of the files.")
            found[file.name] = read_prompt(file)
    return found


def read_labelled(place: str, prompts: dict[str, str], limit: int | None) -> list[Labelled]:
    """The first `limit` records of a JSONL file with ``input`` and ``expected`` (all where None).

    A record may name the ``prompt`` that it belongs to by the prompt's whole text; without one it
    is asked under each of `prompts`.

    Raises:
        LoadError: a file that cannot be read, a field that is missing, no records, or one without
            a prompt where no prompts were given.
    """
    found: list[Labelled] = []
    try:
        for where, record in islice(read_records(place), limit):
            texts = [read_text(record, name, where) for name in ("input", "expected")]
            own = [read_text(record, "prompt", where)] if "prompt" in record else []
            if not own and not prompts:
                raise LoadError(
                    f"{where} names no prompt: add the field prompt, or give --prompts."
                )
            found += [Labelled(prompt, *texts) for prompt in own or prompts.values()]
    except DataError as error:
        raise LoadError(str(error)) from error
    if not found:
        raise LoadError(f"{place} has no records.")
    return found


def embedded_policies(count: int, seed: int) -> list[Labelled]:
    """Policies that the embedded model never saw, with one message each (`main` of
    `gistserve bench policies`, which has more splits and baselines)."""
    from ...training.demo.policy import sample_policy, sample_turn
    from ..policy_quality import SPLITS

    rng = random.Random(f"{seed}/bench/prompts")
    found = []
    for _ in range(count):
        policy = sample_policy(rng, SPLITS["main"])
        turn = sample_turn(rng, policy, SPLITS["main"])
        found.append(Labelled(policy.text, turn.message, turn.reply))
    return found
