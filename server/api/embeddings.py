"""POST /v1/embeddings."""

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Request
from numpy.typing import NDArray
from starlette.responses import Response

from ..engine.pooling import LAST_TOKEN
from ..engine.request import SamplingParams
from .answers import EmbeddingList
from .arrival import arrival_of
from .context import ApiContext, ModelDesk, api_context
from .embedding_schemas import EmbeddingBody
from .errors import ApiError, bad_value
from .generation import AnswerSettings, Generation, PreparedPrompt, check_fits
from .json_route import JsonRoute
from .openapi import GENERATION_ERRORS, error_responses
from .schemas import check_token_ids
from .served_models import ServedModel
from .streaming import until_disconnect

router = APIRouter(tags=["embeddings"], route_class=JsonRoute)


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingList,
    responses=error_responses(*GENERATION_ERRORS),
)
async def create_embeddings(
    body: EmbeddingBody,
    request: Request,
    context: Annotated[ApiContext, Depends(api_context)],
) -> Response:
    """Embeds texts: the last token's final hidden state, brought to length 1.

    Of models that were made for it, or of any where the server was started with `--embeddings`.
    Texts get the tokens that the model's tokenizer puts around them.
    """
    context.check_open()
    model, prompt_name = context.models.resolve(body.model)
    if prompt_name is not None:
        raise bad_value("model", "Embeddings are made of the input alone, behind no prompt.")
    _check_pooling(model)
    size = _check_dimensions(model, body.dimensions)
    desk = context.desks[model.name]
    prompts = [await _prepare(desk, given) for given in body.inputs]
    settings = AnswerSettings(SamplingParams(max_tokens=0), embed=True)
    generation = await context.start(
        desk, prompts, settings, None, desk.meter_request(arrival_of(request))
    )
    vectors = await until_disconnect(request, _vectors(generation, size), generation.close)
    answer = await anyio.to_thread.run_sync(
        _written, model.name, vectors, body.encoding_format, sum(map(_num_tokens, prompts))
    )
    return Response(answer, media_type="application/json")


def _check_pooling(model: ServedModel) -> None:
    if model.pooling == LAST_TOKEN:
        return
    reason = (
        "it was not made for them (its folder has no modules.json of sentence-transformers). Start "
        "the server with --embeddings to have the last token's state of any model"
        if model.pooling is None
        else f"they need {model.pooling}, and only pooling by the last token is supported"
    )
    raise bad_value(
        "model", f"`{model.name}` makes no embeddings: {reason}.", "model_not_supported"
    )


def _check_dimensions(model: ServedModel, wanted: int | None) -> int:
    size = model.engine.hidden_size
    if wanted is not None and wanted > size:
        raise bad_value("dimensions", f"dimensions must be at most {size}, got {wanted}.")
    return wanted or size


async def _prepare(desk: ModelDesk, given: str | list[int]) -> PreparedPrompt:
    if isinstance(given, str):
        token_ids = await desk.renderer.text(given, special_tokens=True, param="input")
    else:
        check_token_ids(given, desk.model.engine.vocab_size, "input")
        token_ids = given
    if not token_ids:
        raise bad_value("input", "Each input must hold at least one token.")
    prompt = PreparedPrompt(token_ids)
    check_fits(desk.model, prompt, 0, "input")
    return prompt


async def _vectors(generation: Generation, size: int) -> NDArray[np.float32]:
    """[inputs, size], each of length 1."""
    async for _ in generation.pieces():
        pass
    found = [choice.embedding for choice in generation.choices]
    vectors = np.stack([vector[:size] for vector in found if vector is not None])
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise ApiError(500, "The model's hidden states are not finite.", code="engine_error")
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _num_tokens(prompt: PreparedPrompt) -> int:
    return prompt.logical_tokens


def _written(
    model: str,
    vectors: NDArray[np.float32],
    encoding: Literal["float", "base64"],
    num_tokens: int,
) -> bytes:
    """The answer's JSON. (A list of many vectors takes long to write: not for an event loop.)"""
    data = [
        {"object": "embedding", "index": i, "embedding": _encoded(vector, encoding)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode()


def _encoded(
    vector: NDArray[np.float32], encoding: Literal["float", "base64"]
) -> Sequence[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
