"""What `gistserve serve` does once its options are known; imports torch and the web framework."""

import json
import shlex
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import torch
from platformdirs import user_cache_path

from ...compress.errors import GistError
from ...compress.store import GistStore
from ..api.application import create_app
from ..api.served_models import ServedModel, ServedModels
from ..api.settings import ServerSettings
from ..api.uvicorn_server import run_server
from ..engine.config import EngineConfig
from ..engine.errors import EngineError
from ..signals import terminate_as_interrupt
from .address import url_of
from .model_loading import load_served_models, torch_dtype
from .model_options import ModelOptions
from .serve_options import Device, ServeOptions
from .terminal import err, fail, out


def base_config(options: ServeOptions) -> EngineConfig:
    """What holds for the engine of every model that does not say otherwise."""
    return EngineConfig(
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        kv_cache_memory=options.kv_cache_memory,
        gpu_memory_utilization=options.gpu_memory_utilization,
        enforce_eager=options.enforce_eager,
        compile=options.compile,
        dtype=torch_dtype(options.dtype),
        device=None if options.device is Device.auto else options.device.value,
        enable_prefix_caching=options.prefix_caching,
    )


def server_settings(options: ServeOptions) -> ServerSettings:
    """What holds for the HTTP interface."""
    return ServerSettings(
        api_keys=() if options.api_key is None else (options.api_key,),
        max_queue=options.max_queue,
        max_queue_tokens=options.max_queue_tokens,
        queue_timeout=options.queue_timeout,
        request_timeout=options.request_timeout,
    )


def run(options: ServeOptions, models: Sequence[ModelOptions], listener: socket.socket) -> None:
    """Load everything, answer requests on the listening socket until told to stop.

    What the user can mend ends the command with one line, before anything is served.
    """
    with ExitStack() as stack:
        stack.enter_context(listener)
        stack.enter_context(terminate_as_interrupt())
        try:
            settings = server_settings(options)
            store = GistStore(options.store or user_cache_path("gistserve") / "prompts")
            stack.callback(store.close)
            served = load_served_models(
                models,
                options.gist_adapters or [],
                base_config(options),
                _report,
                embeddings=options.embeddings,
            )
            app = create_app(ServedModels(served), store, settings)
            for model in served:
                stack.callback(model.engine.shutdown)
                model.engine.start()
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            fail(reason, remedy="Take a smaller --dtype, --kv-cache-memory or --max-num-seqs.")
        except (EngineError, GistError, OSError, ValueError) as error:
            fail(str(error))
        _announce(served, url_of(listener), options.api_key is not None)
        # Once all is stopped, uvicorn raises the signal that stopped it again.
        with suppress(KeyboardInterrupt):
            run_server(app, listener, graceful_seconds=options.shutdown_timeout)


def _report(step: str) -> None:
    err.print(step, style="dim", highlight=False, markup=False, soft_wrap=True)


def _announce(models: Sequence[ServedModel], url: str, needs_key: bool) -> None:
    for model in models:
        kind = "gists and exact prefixes" if model.adapter else "exact prefixes (no gist adapter)"
        out.print(f"{model.name}: up to {model.max_model_len} tokens, prompts as {kind}")
    header = ' -H "Authorization: Bearer $GISTSERVE_API_KEY"' if needs_key else ""
    messages = [{"role": "user", "content": "Hello"}]
    body = shlex.quote(json.dumps({"model": models[0].name, "messages": messages}))
    lines = [
        f"Serving on {url} (interface: {url}/docs). Try:",
        f"  curl {url}/v1/chat/completions{header} \\",
        f"    -H 'Content-Type: application/json' -d {body}",
    ]
    for line in lines:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
