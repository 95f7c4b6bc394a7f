"""GET /health."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from .answers import Health
from .context import ApiContext, api_context

router = APIRouter(tags=["health"])


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(context: Annotated[ApiContext, Depends(api_context)]) -> Response:
    """200 while every engine runs and moves and the server takes work, else 503."""
    if context.stopping:
        return JSONResponse({"status": "shutting_down"}, 503)
    stopped = [model.name for model in context.models if not model.engine.is_running]
    if stopped:
        return JSONResponse({"status": "engine_stopped", "models": stopped}, 503)
    if hung := context.steps.hung():
        return JSONResponse({"status": "engine_hung", "models": hung}, 503)
    return JSONResponse({"status": "ok"})
