"""The OpenAPI document says what the routes do."""

import pytest
from gistserve.server.api.answers import (
    ChatCompletion,
    Completion,
    ErrorBody,
    ModelList,
    Prompt,
    PromptList,
)

from .conftest import GIST_MODEL, Site, Sites

pytestmark = pytest.mark.anyio


async def test_the_document_names_every_route_and_no_422(sites: Sites) -> None:
    async with sites.open(api_keys=("k",)) as site:
        document = (await site.client.get("/openapi.json")).json()
        assert (await site.client.get("/docs")).status_code == 200
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{name}"),
        ("POST", "/v1/prompts"),
        ("GET", "/v1/prompts"),
        ("GET", "/v1/prompts/{prompt_id}"),
        ("PATCH", "/v1/prompts/{prompt_id}"),
        ("DELETE", "/v1/prompts/{prompt_id}"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/server_info"),
    }
    for (_, path), operation in operations.items():
        assert "422" not in operation["responses"]
        assert ("security" in operation) == (path not in ("/health", "/metrics"))
    chat = document["components"]["schemas"]["ChatBody"]
    assert chat["required"] == ["messages"]
    assert chat.get("additionalProperties", True) is True


async def test_answers_fit_their_schemas(site: Site) -> None:
    prompt = await site.register(name="a", metadata={"b": 1})
    Prompt.model_validate(prompt)
    PromptList.model_validate((await site.client.get("/v1/prompts")).json())
    ModelList.model_validate((await site.client.get("/v1/models")).json())
    chat = await site.chat("Hi", prompt_id=prompt["id"], logprobs=True)
    assert ChatCompletion.model_validate(chat).prompt_id == prompt["id"]
    body = {"model": GIST_MODEL, "prompt": "a", "logprobs": 1, "max_tokens": 2}
    Completion.model_validate((await site.post("/v1/completions", body)).json())
    ErrorBody.model_validate((await site.post("/v1/completions", {})).json())


async def test_bodies_without_their_fields_name_the_first_missing_one(site: Site) -> None:
    for path, param in (("/v1/completions", "prompt"), ("/v1/chat/completions", "messages")):
        error = (await site.post(path, {})).json()["error"]
        assert error["param"] == param
        assert error["code"] == "missing_required_parameter"


async def test_every_optional_field_may_be_null_and_is_said_to(site: Site) -> None:
    schemas = (await site.client.get("/openapi.json")).json()["components"]["schemas"]
    bodies = [schema for name, schema in schemas.items() if name.endswith(("Body", "Options"))]
    assert len(bodies) >= 7
    for schema in bodies:
        for name, field in schema["properties"].items():
            nullable = {"type": "null"} in field.get("anyOf", ())
            assert nullable != (name in schema.get("required", ())), (schema["title"], name)


async def test_a_wrong_method_is_told_all_right_ones(site: Site) -> None:
    for path, methods in (("/v1/prompts", "GET, POST"), ("/v1/prompts/x", "DELETE, GET, PATCH")):
        response = await site.client.put(path)
        assert (response.status_code, response.headers["allow"]) == (405, methods)
        assert response.json()["error"]["message"] == "Method not allowed."
