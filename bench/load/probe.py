"""A few requests before the test: what the server understands and how it counts tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import aiohttp
import numpy as np

from .client import LoadClient, get_json
from .errors import LoadError
from .sample import Sample
from .target import Target
from .words import TokensPerWord, random_text
from .workload import LoadRequest

# Words of two probes. Short, so that they fit in a small context.
_WORDS = (8, 40)
# Without a usage there is nothing to count by: about what large vocabularies make of English.
_USUAL_TOKENS_PER_WORD = 1.2


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        target: with a model, and without `ignore_eos` if the server refuses that.
        tells_usage: whether token counts will be known.
        tokens: how its tokenizer splits random words.
    """

    target: Target
    tells_usage: bool
    tokens: TokensPerWord


async def first_model(session: aiohttp.ClientSession, url: str) -> str:
    """Id of the first model that the server lists.

    Raises:
        LoadError: there is no server, or it lists no model.
    """
    found = await get_json(session, f"{url}/v1/models")
    try:
        return str(found["data"][0]["id"])
    except (TypeError, KeyError, IndexError) as error:
        raise LoadError(
            f"{url} lists no model at /v1/models. Is an OpenAI-compatible server running there? "
            "--model names a model without asking."
        ) from error


async def probe(target: Target, session: aiohttp.ClientSession, rng: np.random.Generator) -> Probe:
    """Send two short requests of different length, without `ignore_eos` where it is refused.

    Raises:
        LoadError: the server does not answer them.
    """
    sample = await _ask(target, session, _WORDS[0], rng)
    if sample.error and target.ignore_eos and sample.error.startswith(("HTTP 400", "HTTP 422")):
        target = replace(target, ignore_eos=False)
        sample = await _ask(target, session, _WORDS[0], rng)
    samples = [sample, await _ask(target, session, _WORDS[1], rng)]
    for failed in (sample for sample in samples if not sample.ok):
        raise LoadError(
            f"{target.url}{target.endpoint.path} refused a first request: {failed.error}."
        )
    counts = [sample.prompt_tokens for sample in samples if sample.output_tokens is not None]
    few, many = counts if len(counts) == 2 else (None, None)
    if few is None or many is None or many <= few:
        return Probe(target, False, TokensPerWord(_USUAL_TOKENS_PER_WORD))
    return Probe(target, True, TokensPerWord.from_counts(_WORDS, (few, many)))


async def _ask(
    target: Target, session: aiohttp.ClientSession, words: int, rng: np.random.Generator
) -> Sample:
    request = LoadRequest("", None, random_text(words, rng), output_tokens=2)
    return await LoadClient(target, session).send(request, 0.0)
