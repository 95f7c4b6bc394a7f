"""The HTTP application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from ...compress.store import GistStore
from . import (
    chat,
    completions,
    embeddings,
    errors,
    health,
    metrics,
    prompts,
    responses,
    server_info,
    tokenization,
)
from . import models as models_routes
from .arrival import ID_HEADER
from .authentication import ApiKeyMiddleware
from .body_limit import BodyLimitMiddleware
from .context import ApiContext, ModelDesk
from .kv_watch import KVWatch
from .metrics import ServerCollector
from .openapi import PROTECTED, describe
from .pacing import PacingMiddleware
from .prompt_registry import PromptRegistry
from .request_log import RequestLogMiddleware
from .request_meter import Latencies
from .served_models import ServedModels
from .settings import ServerSettings
from .step_watch import StepWatch

logger = logging.getLogger(__name__)

_ROUTES = (
    chat,
    completions,
    responses,
    embeddings,
    models_routes,
    prompts,
    tokenization,
    health,
    metrics,
    server_info,
)


def create_app(
    models: ServedModels, store: GistStore, settings: ServerSettings | None = None
) -> FastAPI:
    """The application over these models and this store.

    The caller owns both: engines must run before the application starts and be shut down after
    it has stopped, and the store is closed last. When the application starts it takes over the
    store's prompts; until then nothing is read or written.

    Raises:
        ValueError: a budget in `settings` is larger than a model's key/value cache.
    """
    settings = settings or ServerSettings()
    context = build_context(models, store, settings)
    app = FastAPI(
        title="gistserve",
        summary="OpenAI-compatible serving with prompts compressed into gist tokens.",
        lifespan=_lifespan(context),
        strict_content_type=False,
    )
    app.state.context = context
    errors.install(app, [route for module in _ROUTES for route in module.router.routes])
    for module in _ROUTES:
        app.include_router(module.router)
    app.openapi = describe(app, bool(settings.api_keys))  # type: ignore[method-assign]
    # The last one added is the outermost.
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        max_total_bytes=settings.total_body_bytes,
    )
    app.add_middleware(ApiKeyMiddleware, keys=settings.api_keys, protected=PROTECTED)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[ID_HEADER],
        )
    app.add_middleware(PacingMiddleware, unpaced=("/health",))
    app.add_middleware(RequestLogMiddleware)
    return app


def build_context(models: ServedModels, store: GistStore, settings: ServerSettings) -> ApiContext:
    by_name = {model.name: model for model in models}
    registry = CollectorRegistry()
    latencies = Latencies(registry)
    desks = {name: ModelDesk.open(model, settings, latencies) for name, model in by_name.items()}
    prompts = PromptRegistry(by_name, store, settings.prompt_memory)
    registry.register(ServerCollector(desks, prompts))
    steps = StepWatch(models, settings.step_timeout)
    return ApiContext(models, settings, desks, prompts, registry, steps)


def begin_shutdown(app: FastAPI) -> None:
    """From now on new work is answered with 503; requests that run go on."""
    app.state.context.begin_shutdown()


def end_running(app: FastAPI) -> None:
    """Ends what runs with the error that the server shuts down; streams end in good form."""
    app.state.context.end_running()


def _lifespan(context: ApiContext) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await context.prompts.restore()
        tasks = [asyncio.create_task(run(context)) for run in (_watch_forever, _sweep_forever)]
        try:
            yield
        finally:
            context.begin_shutdown()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await context.prompts.close()

    return lifespan


async def _watch_forever(context: ApiContext) -> None:
    watch = KVWatch({model.name: model.engine for model in context.models})
    while True:
        await asyncio.sleep(context.settings.sweep_seconds)
        watch.look()
        context.steps.look()


async def _sweep_forever(context: ApiContext) -> None:
    while True:
        await asyncio.sleep(context.settings.sweep_seconds)
        try:
            await context.prompts.sweep()
        except Exception:
            logger.exception("the removal of expired prompts failed")
