"""POST /tokenize and /detokenize, in vLLM's form."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from .answers import DetokenizedText, TokenizedText
from .chat_prompt import chat_token_ids
from .context import ApiContext, ModelDesk, api_context, owner
from .errors import bad_value
from .json_route import JsonRoute
from .openapi import error_responses
from .schemas import DetokenizeBody, TokenizeBody, check_token_ids, plain_message

router = APIRouter(tags=["tokens"], route_class=JsonRoute)


@router.post(
    "/tokenize", response_model=TokenizedText, responses=error_responses(400, 401, 404, 413, 429)
)
async def tokenize(
    body: TokenizeBody,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> dict[str, Any]:
    """Token ids of a text, or of a conversation as the model's chat template writes it.

    They are the uncompressed ones, also where the model is one of a registered prompt, whose
    messages then come first.
    """
    desk, entry = context.find(owner, body.model, None)
    if (body.prompt is None) == (body.messages is None):
        raise bad_value("prompt", "Give either prompt or messages.")
    if body.messages is not None:
        messages = [plain_message(message) for message in body.messages]
        tokens = await chat_token_ids(
            desk, entry, messages, generation_prompt=body.add_generation_prompt
        )
    else:
        own = await desk.renderer.text(
            body.prompt or "", special_tokens=body.add_special_tokens and entry is None
        )
        if entry is not None:
            entry.values(None)
        tokens = [*(entry.record.prompt_token_ids if entry else ()), *own]
    return {
        "count": len(tokens),
        "max_model_len": desk.model.max_model_len,
        "tokens": tokens,
        "token_strs": _pieces(desk, tokens) if body.return_token_strs else None,
    }


@router.post(
    "/detokenize",
    response_model=DetokenizedText,
    responses=error_responses(400, 401, 404, 413, 429),
)
async def detokenize(
    body: DetokenizeBody,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> dict[str, Any]:
    """The text of token ids, special tokens included."""
    desk, _ = context.find(owner, body.model, None)
    check_token_ids(body.tokens, desk.model.engine.vocab_size, "tokens")
    return {"prompt": await desk.renderer.decode(body.tokens)}


def _pieces(desk: ModelDesk, tokens: list[int]) -> list[str]:
    pieces = desk.model.tokenizer.convert_ids_to_tokens(tokens)
    return [piece or "" for piece in pieces]
