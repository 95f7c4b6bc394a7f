"""What a request's usage must show of a prompt's cache."""

from typing import Any

import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.models.contender import Contender
from gistserve.bench.models.kept_prompt import KeptPrompt

# As a server keeps a prompt of 40 tokens.
GIST = {"method": "gist", "prompt_tokens": 40, "gist_tokens": 4, "slots": 5, "cache_bytes": 1280}
PREFIX = {
    "method": "prefix",
    "prompt_tokens": 40,
    "gist_tokens": 0,
    "slots": 40,
    "cache_bytes": 10240,
}


def row(kept: dict[str, Any]) -> Contender:
    return Contender("row", "m", KeptPrompt.of_resource("text", {"id": "p", "compression": kept}))


def test_a_resource_becomes_a_prompt() -> None:
    gist, prefix = row(GIST), row(PREFIX)
    assert gist.prompt == KeptPrompt("text", "p", 40, 5, 1280)
    assert prefix.prompt == KeptPrompt("text", "p", 40, 0, 10240)
    assert (gist.has_gist, prefix.has_gist, Contender("m", "m").has_gist) == (True, False, False)
    assert gist.prompt.facts() == {
        "prompt_tokens": 40,
        "gist_slots": 5,
        "prompt_cache_bytes": 1280,
    }


@pytest.mark.parametrize(
    ("kept", "cached", "gists"),
    [
        (GIST, 40, 5),
        (GIST, 56, 5),  # the request began as an earlier one
        (PREFIX, 40, 0),
        (PREFIX, 40, None),
        (PREFIX, 56, 0),
    ],
)
def test_its_cache_or_more_may_be_used(
    kept: dict[str, Any], cached: int, gists: int | None
) -> None:
    row(kept).check_cache(cached, gists)


@pytest.mark.parametrize(
    ("kept", "cached", "gists"),
    [
        (GIST, 40, 0),  # the whole prompt's
        (GIST, 40, 4),
        (GIST, 39, 5),
        (GIST, None, None),
        (PREFIX, 40, 5),  # a gist's
        (PREFIX, 39, 0),
        (PREFIX, 0, 0),
        (PREFIX, None, None),
    ],
)
def test_any_other_is_refused(kept: dict[str, Any], cached: int | None, gists: int | None) -> None:
    slots = 5 if kept is GIST else 0
    with pytest.raises(
        LoadError, match=f"to row did not use .* {cached or 0} cached .* be 40 and {slots}"
    ):
        row(kept).check_cache(cached, gists)


def test_without_a_prompt_there_is_nothing_to_show() -> None:
    Contender("m", "m").check_cache(None, None)
    Contender("m", "m").check_cache(16, 0)
