"""POST /v1/chat/completions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from .answers import ChatCompletion
from .arrival import arrival_of
from .chat_prompt import prepare_chat
from .chat_reply import ChatReply
from .chat_tools import ChatTools
from .context import ApiContext, api_context, owner
from .errors import bad_value
from .generation import check_fits
from .json_route import JsonRoute
from .openapi import streamed_responses
from .schemas import ChatBody, plain_message, prompt_values, referenced_prompt
from .tool_schemas import ToolUse

router = APIRouter(tags=["chat"], route_class=JsonRoute)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=streamed_responses(),
)
async def create_chat_completion(
    body: ChatBody,
    request: Request,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Answers a conversation, if asked through the cache of a registered prompt."""
    context.check_open()
    _check_logprobs(body)
    desk, entry = context.choose(owner, body.model, referenced_prompt(body.prompt_id, body.prompt))
    messages = [plain_message(message) for message in body.messages]
    offered = entry.offered_tools(body.tools) if entry else body.tools
    tools = ChatTools.of(desk, ToolUse(offered, body.tool_choice, body.parallel_tool_calls))
    entry, prompt = await prepare_chat(
        context,
        desk,
        entry,
        messages,
        owner,
        prompt_values(body.prompt_variables, body.prompt),
        tools.rendered,
    )
    check_fits(desk.model, prompt, body.token_limit, "messages")
    sampling = body.engine_sampling(body.token_limit, body.logprobs_wanted)
    settings = body.answer_settings(sampling, await tools.grammar(desk, body.response_format))
    meter = desk.meter_request(arrival_of(request))
    generation = await context.start(desk, [prompt], settings, entry, meter)
    reply = ChatReply(desk, generation, entry, tools, with_logprobs=bool(body.logprobs))
    return await reply.send(request, body)


def _check_logprobs(body: ChatBody) -> None:
    if body.top_logprobs and not body.logprobs:
        raise bad_value("top_logprobs", "top_logprobs needs logprobs to be true.")
