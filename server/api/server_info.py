"""GET /server_info."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from ... import __version__
from .answers import ServerInfo
from .context import ApiContext, api_context
from .openapi import error_responses
from .served_models import ServedModel

router = APIRouter(tags=["operation"])


@router.get("/server_info", response_model=ServerInfo, responses=error_responses(401))
async def server_info(context: Annotated[ApiContext, Depends(api_context)]) -> dict[str, Any]:
    """What is served, in which sizes, and the server's own memory and processor time."""
    return {
        "version": __version__,
        "models": [_described(context, model) for model in context.models],
        "prompt_memory": {
            "host_bytes": context.prompts.tiers.host_limit,
            "disk_bytes": context.prompts.disk_limit,
        },
        "process": {"rss_bytes": _resident_bytes(), "processor_seconds": time.process_time()},
    }


def _described(context: ApiContext, model: ServedModel) -> dict[str, Any]:
    gist_tokens = model.adapter.config.num_gist_tokens if model.adapter else None
    return {
        "name": model.name,
        "root": model.root or model.name,
        "gist_tokens": gist_tokens,
        "prompt_bytes": context.prompts.tiers.device_limit(model.name),
        **asdict(model.engine.info),
    }


def _resident_bytes() -> int | None:
    """Of this process; None where the system has no /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kibibytes = next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
    return int(kibibytes) * 1024
