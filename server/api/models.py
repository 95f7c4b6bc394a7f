"""GET /v1/models: the served models, and the registered prompts that act as models."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from .answers import ModelCard, ModelList
from .context import ApiContext, api_context, owner
from .errors import model_not_found
from .openapi import error_responses
from .prompt_entry import PromptEntry
from .served_models import ServedModel

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", response_model=ModelList, responses=error_responses(401))
async def list_models(
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> dict[str, Any]:
    """Every model, and each named prompt as `<model>/<prompt name>`."""
    cards = [_model_card(model) for model in context.models]
    for entry in context.prompts.usable_names(owner):
        model = context.models.get(entry.record.model)
        if model is not None:
            cards.append(_prompt_card(model, entry))
    return {"object": "list", "data": cards}


@router.get("/{name:path}", response_model=ModelCard, responses=error_responses(401, 404))
async def get_model(
    name: str,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> dict[str, Any]:
    """One model, or one prompt's model."""
    if not name:
        raise model_not_found(name)
    model, prompt_name = context.models.resolve(name)
    if prompt_name is None:
        return _model_card(model)
    return _prompt_card(model, context.prompts.named(owner, model, prompt_name))


def _model_card(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "gistserve",
        "root": model.root or model.name,
        "parent": None,
        "max_model_len": model.max_model_len,
    }


def _prompt_card(model: ServedModel, entry: PromptEntry) -> dict[str, Any]:
    return _model_card(model) | {
        "id": f"{model.name}/{entry.record.name}",
        "created": int(entry.record.created_at),
        "parent": model.name,
        "prompt_id": entry.record.id,
    }
