"""What `gistserve serve` does once its options are known; imports torch and the web framework."""

import gc
import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import torch
from platformdirs import user_cache_path
from transformers.utils import logging as transformers_logs

from ...compress.errors import GistError
from ...compress.store import GistStore
from ..api.application import create_app
from ..api.prompt_memory import PromptMemory
from ..api.served_models import ServedModels
from ..api.settings import ServerSettings
from ..api.uvicorn_server import run_server
from ..engine.config import EngineConfig
from ..engine.errors import EngineError
from ..logs import LogFormat, logs
from ..signals import terminate_as_interrupt
from .address import url_of
from .announcement import announce
from .model_loading import load_served_models, torch_dtype
from .model_options import ModelOptions
from .serve_options import Device, ServeOptions
from .terminal import fail

logger = logging.getLogger(__name__)


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
        decode_batch=options.decode_batch,
        dtype=torch_dtype(options.dtype),
        device=None if options.device is Device.auto else options.device.value,
        enable_prefix_caching=options.prefix_caching,
    )


def server_settings(options: ServeOptions) -> ServerSettings:
    """What holds for the HTTP interface."""
    return ServerSettings(
        api_keys=() if options.api_key is None else (options.api_key,),
        cors_origins=tuple(options.cors_origins or ()),
        max_body_bytes=options.max_body_size,
        max_total_body_bytes=options.max_total_body_size,
        max_queue=options.max_queue,
        max_queue_tokens=options.max_queue_tokens,
        queue_timeout=options.queue_timeout,
        request_timeout=options.request_timeout,
        step_timeout=options.step_timeout,
        prompt_memory=PromptMemory(options.prompt_memory, options.prompt_host_memory),
    )


def run(options: ServeOptions, models: Sequence[ModelOptions], listener: socket.socket) -> None:
    """Load everything, answer requests on the listening socket until told to stop.

    What the user can mend ends the command with one line, before anything is served.
    """
    with ExitStack() as stack:
        stack.enter_context(listener)
        stack.enter_context(terminate_as_interrupt())
        stack.enter_context(logs(options.log_level, options.log_format))
        _use_our_logs(options.log_format)
        try:
            settings = server_settings(options)
            folder = options.store or user_cache_path("gistserve") / "prompts"
            store = GistStore(folder, max_bytes=options.store_limit)
            stack.callback(store.close)
            served = load_served_models(
                models,
                options.gist_adapters or [],
                base_config(options),
                logger.info,
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
        needs_key = options.api_key is not None
        announce(served, url_of(listener), needs_key, options.log_format)
        # No collection need go over what lives as long as the process; it stops the event loop.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)  # or what is not freed at exit is complained about
        # Once all is stopped, uvicorn raises the signal that stopped it again.
        with suppress(KeyboardInterrupt):
            run_server(app, listener, graceful_seconds=options.shutdown_timeout)


def _use_our_logs(style: LogFormat) -> None:
    """Have transformers log as all others do; in JSON no progress bar comes between."""
    transformers_logs.disable_default_handler()
    transformers_logs.enable_propagation()
    if style is LogFormat.json:
        transformers_logs.disable_progress_bar()
