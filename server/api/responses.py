"""POST /v1/responses."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from .answers import ResponseObject
from .arrival import arrival_of
from .chat_prompt import prepare_chat
from .chat_tools import ChatTools
from .context import ApiContext, api_context, owner
from .generation import AnswerSettings, check_fits
from .json_route import JsonRoute
from .openapi import streamed_responses
from .response_reply import ResponseReply
from .response_schemas import ResponseBody
from .schemas import prompt_values, referenced_prompt

router = APIRouter(tags=["responses"], route_class=JsonRoute)


@router.post(
    "/v1/responses",
    response_model=ResponseObject,
    responses=streamed_responses(),
)
async def create_response(
    body: ResponseBody,
    request: Request,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Answers text or a list of items, if asked through the cache of a registered prompt."""
    context.check_open()
    body.check_supported()
    desk, entry = context.choose(owner, body.model, referenced_prompt(body.prompt_id, body.prompt))
    offered = entry.offered_tools(body.chat_tools) if entry else body.chat_tools
    tools = ChatTools.of(desk, body.tool_use(offered))
    entry, prompt = await prepare_chat(
        context,
        desk,
        entry,
        body.messages(),
        owner,
        prompt_values(body.prompt_variables, body.prompt),
        tools.rendered,
        param="input",
    )
    limit = body.max_output_tokens
    check_fits(desk.model, prompt, limit, "input")
    sampling = body.engine_sampling(limit, body.logprobs_wanted)
    grammar = await tools.grammar(desk, body.format_wanted, "text")
    settings = AnswerSettings(sampling, body.stop_strings, 1, grammar)
    meter = desk.meter_request(arrival_of(request))
    generation = await context.start(desk, [prompt], settings, entry, meter)
    return await ResponseReply(desk, generation, entry, body, tools).send(request, body)
