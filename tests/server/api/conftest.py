"""The application over real engines of tiny random models, each test with a store of its own."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import torch
from fastapi import FastAPI
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.fingerprint import model_fingerprint
from gistserve.compress.store import GistStore
from gistserve.server.api.application import create_app
from gistserve.server.api.served_models import ServedModel, ServedModels
from gistserve.server.api.settings import ServerSettings
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine import Engine
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ...chat_model import save_chat_model

GIST_TOKENS = 4
GIST_MODEL = "org/tiny"
SMALL_POOL = 64
PLAIN_MODEL = "plain"
MAX_MODEL_LEN = 512
# The body of a chat request that runs for many steps.
LONG_CHAT = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 480,
    "ignore_eos": True,
    "temperature": 0,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def gist_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gist_model")
    return save_chat_model(folder, seed=1, gists=GIST_TOKENS)


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("plain_model"), seed=2, adapter=False)


@dataclass
class Loaded:
    """A model as it is on disk, without an engine."""

    name: str
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    adapter: GistAdapter | None
    fingerprint: str

    @classmethod
    def load(cls, name: str, folder: Path) -> Loaded:
        model = LlamaForCausalLM.from_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        adapter_folder = folder / "gist_adapter"
        adapter = GistAdapter.load(adapter_folder) if adapter_folder.is_dir() else None
        fingerprint = model_fingerprint(model, tokenizer, adapter, source=folder)
        return cls(name, model, tokenizer, adapter, fingerprint)

    def serve(self, **limits: Any) -> ServedModel:
        """A started engine; the caller shuts it down."""
        sizes = {"max_model_len": MAX_MODEL_LEN, "num_blocks": 256, "max_num_seqs": 16, **limits}
        model = copy.deepcopy(self.model)  # an engine has its model to itself
        adapter = copy.deepcopy(self.adapter)
        engine = Engine(model, EngineConfig(**sizes), adapter, fingerprint=self.fingerprint)
        engine.start()
        return ServedModel(
            name=self.name,
            engine=engine,
            tokenizer=self.tokenizer,
            fingerprint=self.fingerprint,
            max_model_len=engine.max_model_len,
            adapter=adapter,
        )

    def greedy(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """What transformers generates."""
        output = self.model.generate(
            torch.tensor([token_ids]),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return output[0, len(token_ids) :].tolist()


@pytest.fixture(scope="session")
def gist_loaded(gist_folder: Path) -> Loaded:
    return Loaded.load(GIST_MODEL, gist_folder)


@pytest.fixture(scope="session")
def plain_loaded(plain_folder: Path) -> Loaded:
    return Loaded.load(PLAIN_MODEL, plain_folder)


@pytest.fixture(scope="module")
def served(gist_loaded: Loaded, plain_loaded: Loaded) -> Iterator[ServedModels]:
    """A model with a gist adapter (the first one) and a model without."""
    models = [gist_loaded.serve(), plain_loaded.serve()]
    yield ServedModels(models)
    for model in models:
        model.engine.shutdown()


@dataclass
class Clock:
    """Unix time that a test moves by hand."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A running application and a client of it."""

    app: FastAPI
    client: httpx.AsyncClient
    store: GistStore
    clock: Clock

    async def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return await self.client.post(path, json=body, **more)

    async def chat(self, *messages: str, **fields: Any) -> dict[str, Any]:
        """Greedy answer to user messages; fails unless the status is 200."""
        body = {"model": GIST_MODEL, "temperature": 0, "max_tokens": 8, **fields}
        body["messages"] = [{"role": "user", "content": text} for text in messages]
        response = await self.post("/v1/chat/completions", body)
        assert response.status_code == 200, response.text
        return response.json()

    async def register(self, status: int = 201, **fields: Any) -> dict[str, Any]:
        body = {"messages": [{"role": "system", "content": "Answer in a few words."}], **fields}
        if "text" in fields:
            del body["messages"]
        response = await self.post("/v1/prompts", body)
        assert response.status_code == status, response.text
        return response.json()


@dataclass
class Sites:
    """Opens applications on one store directory, one after the other."""

    served: ServedModels
    directory: Path
    settings: ServerSettings = field(default_factory=ServerSettings)
    store_limit: int | None = None
    clock: Clock = field(default_factory=Clock)

    @asynccontextmanager
    async def open(
        self, models: ServedModels | None = None, **settings: Any
    ) -> AsyncIterator[Site]:
        with GistStore(self.directory, max_bytes=self.store_limit) as store:
            app = create_app(
                models or self.served,
                store,
                replace(self.settings, sweep_seconds=0.05, **settings),
            )
            app.state.context.prompts._clock = self.clock
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://test") as client,
            ):
                yield Site(app, client, store, self.clock)
            for model in models or self.served:
                await until(lambda model=model: model.engine.stats().num_running == 0)
            await _unpin_all(app)


@pytest.fixture(scope="module")
def small(gist_loaded: Loaded) -> Iterator[ServedModels]:
    """One model with a pool of `SMALL_POOL` blocks, which a few prompts fill."""
    model = gist_loaded.serve(num_blocks=SMALL_POOL)
    yield ServedModels([model])
    model.engine.shutdown()


async def _unpin_all(app: FastAPI) -> None:
    """Gives the pins back, since the engine outlives the application in these tests."""
    registry = app.state.context.prompts
    for entry in registry._index.all():
        registry._caches.release(entry)


@pytest.fixture
def sites(served: ServedModels, tmp_path: Path) -> Sites:
    return Sites(served, tmp_path / "store")


@pytest.fixture
async def site(sites: Sites) -> AsyncIterator[Site]:
    async with sites.open() as opened:
        yield opened


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Waits for what another thread or task does; far longer than it takes on a busy machine."""
    with anyio.fail_after(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def sse(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a finished stream, which must end with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
