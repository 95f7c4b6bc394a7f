"""Turns what a step computed into the outputs that requests receive."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .engine_stats import EngineCounters
from .logprobs import token_logprobs
from .request import RequestOutput, TokenLogprob
from .sampler import SampledTokens
from .scheduler_output import ScheduledSequence, SchedulerOutput
from .sequence import Sequence
from .transfer import upload


def sampling_rows(output: SchedulerOutput, logits: Tensor) -> tuple[Tensor, list[Sequence]]:
    """The logits [R, V] that draw a token, and whose.

    Rows that only tell a prompt's log-probabilities are taken out, and reported to their sequences.
    """
    sequences = [share.sequence for share in output.sequences if share.samples]
    if len(sequences) == len(logits):
        return logits, sequences
    counts = [share.num_logits for share in output.sequences]
    ends = np.cumsum(counts).tolist()
    for share, end in zip(output.sequences, ends, strict=True):
        if share.num_logits and share.sequence.wants_prompt_logprobs:
            _add_prompt_logprobs(share, logits[end - share.num_logits : end])
    last = [end - 1 for share, end in zip(output.sequences, ends, strict=True) if share.samples]
    (rows,) = upload([np.array(last, dtype=np.int64)], logits.device)
    return logits[rows], sequences


def _add_prompt_logprobs(share: ScheduledSequence, logits: Tensor) -> None:
    """Each row of [num_new_tokens, V] predicts the prompt's next token; the last one has none."""
    sequence = share.sequence
    num_top = sequence.request.sampling.prompt_logprobs
    assert num_top is not None
    start = share.start + 1
    targets = sequence.token_ids[start : start + share.num_new_tokens]
    if targets:
        found = token_logprobs(logits[: len(targets)], targets, [num_top] * len(targets))
        sequence.prompt_logprobs += found


def step_outputs(
    output: SchedulerOutput, sampled: SampledTokens, counters: EngineCounters
) -> list[RequestOutput]:
    """One output for each sequence that drew a token or ended in the step."""
    outputs = []
    row = 0
    for share in output.sequences:
        sequence = share.sequence
        if share.samples:
            token, logprob = sampled.token_ids[row], sampled.logprobs[row]
            row += 1
            valid = sequence.finish_reason != "error"
            outputs.append(_token_output(sequence, token if valid else None, logprob, counters))
        elif sequence.finish_reason is not None:
            outputs.append(_token_output(sequence, None, None, counters))
    return outputs


def ended_output(sequence: Sequence, counters: EngineCounters) -> RequestOutput:
    """The last output of a sequence that ended without a token."""
    assert sequence.finish_reason is not None
    counters.finished[sequence.finish_reason] += 1
    return _base_output(sequence, [])


def _token_output(
    sequence: Sequence,
    token_id: int | None,
    logprob: TokenLogprob | None,
    counters: EngineCounters,
) -> RequestOutput:
    result = _base_output(sequence, [] if token_id is None else [token_id])
    if token_id is not None:
        counters.generation_tokens += 1
        if logprob is not None:
            result.logprobs = [logprob]
    if sequence.num_output_tokens <= 1:
        _report_prompt(sequence, result, counters)
    if sequence.finish_reason is not None:
        counters.finished[sequence.finish_reason] += 1
    return result


def _base_output(sequence: Sequence, token_ids: list[int]) -> RequestOutput:
    pinned = sequence.request.pinned
    num_prompt = sequence.num_prompt_tokens
    num_cached = sequence.num_cached_tokens or 0
    return RequestOutput(
        request_id=sequence.request.request_id,
        new_token_ids=token_ids,
        finish_reason=sequence.finish_reason,
        stop_token_id=sequence.stop_token_id,
        num_prompt_tokens=num_prompt + pinned.prompt_tokens if pinned else num_prompt,
        num_cached_tokens=num_cached + pinned.prompt_tokens if pinned else num_cached,
        num_output_tokens=len(sequence.token_ids) - num_prompt,
        num_gist_slots=pinned.num_gist_slots if pinned else 0,
        error=sequence.error,
    )


def _report_prompt(sequence: Sequence, output: RequestOutput, counters: EngineCounters) -> None:
    counters.prompt_tokens += output.num_prompt_tokens
    counters.prompt_tokens_cached += output.num_cached_tokens
    pinned = sequence.request.pinned
    if pinned and pinned.method == "gist":
        counters.gist_tokens_saved += pinned.prompt_tokens - pinned.slots
    if sequence.request.sampling.prompt_logprobs is not None:
        output.prompt_logprobs = [None, *sequence.prompt_logprobs]
    output.embedding = sequence.embedding
