"""What is asked: prompts that requests share, inputs of their own, lengths of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import LoadError
from .lengths import Lengths
from .words import TokensPerWord

_USUAL_PROMPT = Lengths("fixed", 512)


@dataclass(frozen=True)
class LoadRequest:
    """One request.

    Attributes:
        prompt: text that other requests share; empty where nothing is shared.
        prompt_id: the registered prompt that stands for `prompt`, where it is registered.
        input: text of this request alone.
        output_tokens: length of the answer that is asked for.
    """

    prompt: str
    prompt_id: str | None
    input: str
    output_tokens: int


@dataclass(frozen=True)
class Workload:
    """How requests are drawn.

    Attributes:
        input_tokens, output_tokens, prompt_tokens: lengths in tokens. Of texts they are met as
            closely as the tokenizer's mean number of tokens a word allows, and what a chat template
            adds is not counted: usage tells what they became.
        num_prompts: synthetic prompts of `prompt_tokens` that the requests share, each used equally
            often.
        prompt_files: shared prompts to take instead of synthetic ones.
    """

    input_tokens: Lengths
    output_tokens: Lengths
    num_prompts: int = 0
    prompt_tokens: Lengths = _USUAL_PROMPT
    prompt_files: tuple[Path, ...] = ()

    def draw_prompts(self, tokens: TokensPerWord, rng: np.random.Generator) -> list[str]:
        """The shared prompts.

        Raises:
            LoadError: a prompt file that cannot be read, or is empty.
        """
        if self.prompt_files:
            return [read_prompt(path) for path in self.prompt_files]
        lengths = self.prompt_tokens.sample(rng, self.num_prompts)
        return [tokens.text(length, rng) for length in lengths]

    def draw_requests(
        self,
        count: int,
        prompts: Sequence[str],
        prompt_ids: Sequence[str | None],
        tokens: TokensPerWord,
        rng: np.random.Generator,
    ) -> list[LoadRequest]:
        """`count` requests over the prompts, in random order."""
        turns = rng.permutation(count) % max(1, len(prompts))
        inputs = self.input_tokens.sample(rng, count)
        outputs = self.output_tokens.sample(rng, count)
        return [
            LoadRequest(
                prompt=prompts[turns[i]] if prompts else "",
                prompt_id=prompt_ids[turns[i]] if prompts else None,
                input=tokens.text(inputs[i], rng),
                output_tokens=outputs[i],
            )
            for i in range(count)
        ]

    def facts(self) -> dict[str, object]:
        """For a result file."""
        return {
            "shared_prompts": len(self.prompt_files) or self.num_prompts,
            "prompt_files": [path.name for path in self.prompt_files],
            "prompt_tokens": str(self.prompt_tokens),
            "input_tokens": str(self.input_tokens),
            "output_tokens": str(self.output_tokens),
        }


def read_prompt(path: Path) -> str:
    """Text of a prompt's file. Raises LoadError where it cannot be read, or is empty."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read as a prompt: {error}.") from error
    if not text:
        raise LoadError(f"{path} is empty; a prompt needs text.")
    return text
