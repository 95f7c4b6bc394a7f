"""The engine driven from asyncio, without HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

from transformers import PreTrainedTokenizerBase

from ...server.commands.model_source import ModelSource
from ...server.engine.config import EngineConfig
from ...server.engine.engine import Engine
from ...server.engine.loader import load_model
from ...server.engine.request import Request, SamplingParams
from ..load.sample import Sample
from ..load.workload import LoadRequest


class DirectClient:
    """Sends an engine the requests that `LoadClient` sends a server, as tokens."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._token_ids: dict[str, list[int]] = {}

    def prepare(self, requests: Iterable[LoadRequest]) -> None:
        """Tokenises inputs, so that `send` need not."""
        self._token_ids = {
            request.input: self._tokenizer(request.input)["input_ids"] for request in requests
        }

    async def send(self, request: LoadRequest, start: float, due: float | None = None) -> Sample:
        """One prepared request from submission to its last token; as `LoadClient.send`."""
        sent = perf_counter()
        late = 0.0 if due is None else max(0.0, sent - start - due)
        sample = Sample(sent - start, request.output_tokens, late)
        sampling = SamplingParams(
            max_tokens=request.output_tokens, temperature=0.0, ignore_eos=True
        )
        prompt = Request(uuid.uuid4().hex, self._token_ids[request.input], sampling)
        last = sent
        async for output in self._engine.generate(prompt):
            now = perf_counter()
            if sample.ttft is None:
                sample.ttft = now - sent
            else:
                sample.itl.append(now - last)
            last = now
            sample.prompt_tokens = output.num_prompt_tokens
            sample.cached_tokens = output.num_cached_tokens
            sample.output_tokens = output.num_output_tokens
            sample.error = output.error
        sample.e2el = last - sent
        return sample


@contextmanager
def direct_client(source: ModelSource) -> Iterator[DirectClient]:
    """A client of an engine in this process, with the settings that `gistserve serve` has."""
    model, tokenizer = load_model(source.location)
    engine = Engine(model, EngineConfig())
    engine.start()
    try:
        yield DirectClient(engine, tokenizer)
    finally:
        engine.shutdown()
