"""Token ids of inputs and answers, for causal and encoder-decoder models."""

from transformers import PreTrainedTokenizerBase

from .records import DataError

IGNORED = -100
PROMPT = "{} =>"
"""How a causal model is given an input: its text, then an arrow, then what it writes."""


def prompt_ids(source: str, tokenizer: PreTrainedTokenizerBase, *, causal: bool) -> list[int]:
    """Token ids of an input: `PROMPT` without end token for a causal model, else as it is."""
    ids: list[int] = tokenizer(PROMPT.format(source) if causal else source).input_ids
    if causal and ids and ids[-1] == tokenizer.eos_token_id:
        return ids[:-1]
    return ids


def answer_ids(answer: str, tokenizer: PreTrainedTokenizerBase, *, causal: bool) -> list[int]:
    """Token ids of what follows an input, with an end token.

    Raises DataError where the tokenizer has none.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("the tokenizer has no end token, so no answer could ever end; set one")
    text = f" {answer.strip()}" if causal else answer.strip()
    return [*tokenizer(text, add_special_tokens=False).input_ids, end]
