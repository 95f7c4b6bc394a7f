"""The engine as a plain function: prompts in, continuations out."""

from __future__ import annotations

import itertools
import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from transformers import PreTrainedModel

from .config import EngineConfig
from .engine import Engine
from .errors import EngineError, UnsupportedModelError
from .request import Request, RequestOutput
from .sampling_params import SamplingParams

logger = logging.getLogger(__name__)


class Drawing(Protocol):
    """How continuations are drawn; temperature 0 takes the most likely token."""

    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def seed(self) -> int: ...


Generate = Callable[[list[list[int]], Drawing], list[list[int]]]


@contextmanager
def engine_generate(
    model: PreTrainedModel, config: EngineConfig | None = None
) -> Iterator[Generate | None]:
    """A function that continues prompts of token ids, in an engine that has `model` to itself.

    Prompts of a call run together, and beginnings that prompts have in common, also with earlier
    calls, are computed once. An end token is the last of a continuation that has one. Row i of a
    call is drawn with seed `seed` + i. ValueError where a prompt does not fit.

    None where the engine cannot run a model of this class.
    """
    try:
        engine = Engine(model, config or EngineConfig())
    except UnsupportedModelError as error:
        logger.warning("the engine is not used: %s", error)
        yield None
        return
    engine.start()
    calls = itertools.count()
    try:
        yield lambda prompts, drawing: _generate(engine, str(next(calls)), prompts, drawing)
    finally:
        engine.shutdown()


def _generate(
    engine: Engine, call: str, prompts: list[list[int]], drawing: Drawing
) -> list[list[int]]:
    outputs: queue.SimpleQueue[RequestOutput] = queue.SimpleQueue()
    written: dict[str, list[int]] = {f"{call}-{row}": [] for row in range(len(prompts))}
    running = set[str]()
    try:
        for row, (request_id, prompt) in enumerate(zip(written, prompts, strict=True)):
            engine.submit(Request(request_id, prompt, _sampling(drawing, row)), outputs.put)
            running.add(request_id)
        while running:
            output = outputs.get()
            written[output.request_id] += output.new_token_ids
            if output.error is not None:
                raise RuntimeError(output.error)
            if output.finish_reason is not None:
                running.remove(output.request_id)
    except EngineError as error:
        raise ValueError(str(error)) from error
    finally:
        for request_id in running:
            engine.abort(request_id)
    return list(written.values())


def _sampling(drawing: Drawing, row: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=drawing.max_new_tokens,
        temperature=drawing.temperature,
        seed=drawing.seed + row,
    )
