"""A model folder behind the server's API, without a socket."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx
from gistserve.compress.fingerprint import model_fingerprint
from gistserve.compress.store import GistStore
from gistserve.server.api.application import create_app
from gistserve.server.api.served_models import ServedModel, ServedModels
from gistserve.server.api.settings import ServerSettings
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine import Engine
from gistserve.server.engine.loader import load_model


def completions(folder: Path, store: Path, prompts: Sequence[str], max_tokens: int) -> list[str]:
    """What the model of `folder` writes behind each prompt, greedily; all are asked at once.

    store: folder for the server's compressed prompts.
    """
    return asyncio.run(_completions(folder, store, prompts, max_tokens))


async def _completions(
    folder: Path, store: Path, prompts: Sequence[str], max_tokens: int
) -> list[str]:
    model, tokenizer = load_model(folder, device="cpu")
    fingerprint = model_fingerprint(model, tokenizer, source=folder)
    engine = Engine(model, EngineConfig(max_model_len=128, num_blocks=128), fingerprint=fingerprint)
    engine.start()
    try:
        served = ServedModel("model", engine, tokenizer, fingerprint, engine.max_model_len)
        with GistStore(store) as prompt_store:
            app = create_app(ServedModels([served]), prompt_store, ServerSettings())
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://test") as site,
            ):
                asked = (_ask(site, prompt, max_tokens) for prompt in prompts)
                return list(await asyncio.gather(*asked))
    finally:
        engine.shutdown()


async def _ask(site: httpx.AsyncClient, prompt: str, max_tokens: int) -> str:
    body = {"model": "model", "prompt": prompt, "temperature": 0, "max_tokens": max_tokens}
    response = await site.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text.strip()
