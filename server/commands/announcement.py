"""What `gistserve serve` says once it serves."""

import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ..api.served_models import ServedModel
from ..logs import LogFormat
from .terminal import out

logger = logging.getLogger(__name__)


def announce(models: Sequence[ServedModel], url: str, needs_key: bool, style: LogFormat) -> None:
    """Tell what is served and where, to people with a request to try."""
    if style is LogFormat.json:
        for model in models:
            logger.info("serving a model", extra={"fields": _facts(model)})
        logger.info("ready", extra={"fields": {"url": url}})
        return
    for line in (*map(_described, models), *_example(models[0], url, needs_key)):
        out.print(line, soft_wrap=True, highlight=False, markup=False)


def _facts(model: ServedModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "max_model_len": model.max_model_len,
        "kv_cache_bytes": model.engine.info.kv_cache_bytes,
        "gists": model.adapter is not None,
    }


def _described(model: ServedModel) -> str:
    kind = "gists and exact prefixes" if model.adapter else "exact prefixes (no gist adapter)"
    info = model.engine.info
    slots = info.num_blocks * info.block_size
    return (
        f"{model.name}: up to {model.max_model_len} tokens, prompts as {kind}; "
        f"KV cache of {slots} tokens, {info.kv_cache_bytes / 2**20:.1f} MiB"
    )


def _example(model: ServedModel, url: str, needs_key: bool) -> Iterator[str]:
    header = ' -H "Authorization: Bearer $GISTSERVE_API_KEY"' if needs_key else ""
    route, request = _request(model)
    yield f"Serving on {url} (interface: {url}/docs). Try:"
    yield f"  curl {url}{route}{header} \\"
    yield f"    -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(request))}"


def _request(model: ServedModel) -> tuple[str, dict[str, Any]]:
    """A route that the model can answer; chats need a chat template."""
    if not model.generates:
        return "/v1/embeddings", {"model": model.name, "input": "Hello"}
    if model.tokenizer.chat_template is None:
        request = {"model": model.name, "prompt": "Once upon a time", "max_tokens": 32}
        return "/v1/completions", request
    messages = [{"role": "user", "content": "Hello"}]
    return "/v1/chat/completions", {"model": model.name, "messages": messages}
