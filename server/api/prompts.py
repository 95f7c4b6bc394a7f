"""/v1/prompts: reusable prompts, compressed once."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from .answers import Prompt, PromptDeleted, PromptList
from .context import ApiContext, api_context, owner
from .errors import bad_value, model_not_found
from .json_route import JsonRoute
from .openapi import error_responses
from .prompt_schemas import PromptBody, PromptPatch

router = APIRouter(prefix="/v1/prompts", tags=["prompts"], route_class=JsonRoute)


@router.post(
    "",
    status_code=201,
    response_model=Prompt,
    responses={
        200: {"model": Prompt, "description": "The same prompt was registered before."},
        **error_responses(400, 401, 404, 409, 413, 429, 503, 507),
    },
)
async def create_prompt(
    body: PromptBody,
    request: Request,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Registers a prompt and answers when it is ready.

    Content, tools, model, method and number of gist tokens identify it: the same again answers
    200 with the same resource (a name it did not have, and a longer life, are taken over).
    Registrations of a model wait for one another; a client that goes away gives up its own.
    """
    context.check_open()
    model, prompt_name = context.models.resolve(body.model)
    if prompt_name is not None:
        raise model_not_found(str(body.model))
    model.check_generates()
    desk = context.desks[model.name]
    entry, created = await context.limited_while_connected(
        request,
        context.prompts.create(owner, model, desk.renderer, desk.registrations, body),
    )
    return JSONResponse(context.prompts.as_resource(entry), 201 if created else 200)


@router.get("", response_model=PromptList, responses=error_responses(400, 401))
async def list_prompts(
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="Id of the last prompt already seen.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation.")] = "desc",
) -> Response:
    """One page of the prompts made with this key."""
    entries = context.prompts.all_of(owner)
    if order == "desc":
        entries.reverse()
    ids = [entry.record.id for entry in entries]
    if after is not None and after not in ids:
        raise bad_value("after", f"after: there is no prompt `{after}`.")
    start = 0 if after is None else ids.index(after) + 1
    page = entries[start : start + limit]
    body: dict[str, Any] = {
        "object": "list",
        "data": [context.prompts.as_resource(entry) for entry in page],
        "first_id": page[0].record.id if page else None,
        "last_id": page[-1].record.id if page else None,
        "has_more": start + limit < len(entries),
    }
    return JSONResponse(body)


@router.get("/{prompt_id}", response_model=Prompt, responses=error_responses(401, 404))
async def get_prompt(
    prompt_id: str,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """One prompt."""
    prompts = context.prompts
    return JSONResponse(prompts.as_resource(prompts.get(owner, prompt_id)))


@router.patch(
    "/{prompt_id}", response_model=Prompt, responses=error_responses(400, 401, 404, 413, 429, 507)
)
async def update_prompt(
    prompt_id: str,
    body: PromptPatch,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Changes expiry or metadata; what is absent stays."""
    entry = context.prompts.get(owner, prompt_id)
    await context.prompts.update(entry, body)
    return JSONResponse(context.prompts.as_resource(entry))


@router.delete(
    "/{prompt_id}", response_model=PromptDeleted, responses=error_responses(401, 404, 507)
)
async def delete_prompt(
    prompt_id: str,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Forgets a prompt at once; requests that run with it finish."""
    await context.prompts.delete(context.prompts.get(owner, prompt_id))
    return JSONResponse({"id": prompt_id, "object": "prompt.deleted", "deleted": True})
