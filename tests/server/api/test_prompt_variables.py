"""Registered prompts whose text has variables behind what is compressed."""

from typing import Any

import pytest
from gistserve.server.api.answers import Prompt
from gistserve.server.api.prompt_variables import fill
from hypothesis import given
from hypothesis import strategies as st

from .conftest import GIST_MODEL, Site, Sites

pytestmark = pytest.mark.anyio

SYSTEM = "You answer mail of {{customer}}, who speaks {{ language }}. Be kind to {{customer}}."
MESSAGES = [{"role": "system", "content": SYSTEM}]
NAMES = ["customer", "language"]
VALUES = {"customer": "Ann {{language}}", "language": "Dutch"}
FILLED = "You answer mail of Ann {{language}}, who speaks Dutch. Be kind to Ann {{language}}."


def body_of(**fields: Any) -> dict[str, Any]:
    hello = [{"role": "user", "content": "Hello"}]
    return {"model": GIST_MODEL, "messages": hello, "temperature": 0, "max_tokens": 8, **fields}


async def answer(site: Site, path: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    response = await site.post(path, body_of(**fields))
    assert response.status_code == 200, response.text
    return response.json()


@given(
    values=st.dictionaries(st.sampled_from(["a", "b_1"]), st.text("{}ab_1\\ ")),
    text=st.text("{} ab_1\n"),
)
def test_filling_replaces_each_place_once(values: dict[str, str], text: str) -> None:
    marked = text.replace("{{", "{ {")
    pieces = [marked, *(f"{{{{{name}}}}}{marked}" for name in values)]
    expected = marked + "".join(values[name] + marked for name in values)
    if not marked.endswith("{") and not marked.startswith("}"):
        assert fill("".join(pieces), values) == expected
    assert fill(text, {}) == text


@pytest.mark.parametrize("compression", ["prefix", "gist"])
async def test_only_what_precedes_the_first_variable_is_compressed(
    site: Site, compression: str
) -> None:
    prompt = await site.register(messages=MESSAGES, variables=NAMES, compression=compression)
    assert Prompt.model_validate(prompt).variables == NAMES
    record = site.store.get(prompt["id"])
    tokenizer = site.app.state.context.models.get(GIST_MODEL).tokenizer
    assert tokenizer.decode(record.prompt_token_ids).endswith("You answer mail of ")
    found = await answer(site, prompt={"id": prompt["id"], "variables": VALUES})
    whole = await answer(
        site,
        messages=[{"role": "system", "content": FILLED}, {"role": "user", "content": "Hello"}],
    )
    assert found["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    if compression == "prefix":
        assert found["choices"] == whole["choices"]
    else:
        assert found["usage"]["prompt_tokens_details"]["gist_tokens"] > 0


async def test_every_interface_takes_the_values(site: Site) -> None:
    prompt = await site.register(
        messages=MESSAGES, variables=NAMES, compression="prefix", name="mail"
    )
    by_reference = await answer(site, prompt={"id": prompt["id"], "variables": VALUES})
    by_name = await answer(site, model=f"{GIST_MODEL}/mail", prompt_variables=VALUES)
    assert by_name["choices"] == by_reference["choices"]
    parts = {**VALUES, "language": {"type": "input_text", "text": "Dutch"}}
    response = await answer(
        site,
        "/v1/responses",
        input="Hello",
        max_output_tokens=8,
        prompt={"id": prompt["id"], "variables": parts},
    )
    text = by_reference["choices"][0]["message"]["content"]
    assert response["output"][0]["content"][0]["text"] == text


async def test_text_has_variables_too(site: Site) -> None:
    prompt = await site.register(text="Mail of {{who}}:\n", variables=["who"], compression="prefix")
    found = await answer(
        site,
        "/v1/completions",
        prompt="Dear",
        prompt_id=prompt["id"],
        prompt_variables={"who": "Ann"},
    )
    whole = await answer(site, "/v1/completions", prompt="Mail of Ann:\nDear")
    assert found["choices"] == whole["choices"]


async def test_a_conversation_does_not_match_it_by_itself(site: Site) -> None:
    await site.register(messages=MESSAGES, variables=NAMES, compression="prefix")
    found = await answer(site, messages=[*MESSAGES, {"role": "user", "content": "Hello"}])
    assert "prompt_id" not in found
    # Without names the braces are plain text.
    plain = await site.register(messages=MESSAGES, compression="prefix")
    found = await answer(site, messages=[*MESSAGES, {"role": "user", "content": "Hello"}])
    assert found["prompt_id"] == plain["id"]


async def test_they_survive_a_restart(sites: Sites) -> None:
    async with sites.open() as site:
        prompt = await site.register(messages=MESSAGES, variables=NAMES, compression="prefix")
        reference = {"id": prompt["id"], "variables": VALUES}
        before = await answer(site, prompt=reference)
    async with sites.open() as site:
        assert (await answer(site, prompt=reference))["choices"] == before["choices"]
        again = await site.register(200, messages=MESSAGES, variables=NAMES, compression="prefix")
        assert again["id"] == prompt["id"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "`customer`, `language`"),
        ({"customer": "Ann"}, "needs values for `language`"),
        ({**VALUES, "other": "x"}, "no variables `other`"),
        ({**VALUES, "language": 3}, "prompt.variables.language must be text"),
    ],
)
async def test_values_that_do_not_fit_are_named(site: Site, values: Any, reason: str) -> None:
    prompt = await site.register(messages=MESSAGES, variables=NAMES)
    response = await site.post(
        "/v1/chat/completions", body_of(prompt={"id": prompt["id"], "variables": values})
    )
    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": MESSAGES, "variables": ["nobody"]}, "does not occur"),
        ({"messages": MESSAGES, "variables": ["customer"] * 2}, "twice"),
        ({"messages": MESSAGES, "variables": ["a b"]}, "pattern"),
        ({"text": " {{a}} text", "variables": ["a"]}, "begins with a variable"),
    ],
)
async def test_registrations_that_cannot_work(
    site: Site, fields: dict[str, Any], reason: str
) -> None:
    error = (await site.register(400, **fields))["error"]
    assert reason in error["message"] and error["param"].startswith("variables")


async def test_values_without_a_prompt_are_refused(site: Site) -> None:
    response = await site.post("/v1/chat/completions", body_of(prompt_variables=VALUES))
    assert response.status_code == 400
