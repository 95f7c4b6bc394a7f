"""What comes while the last chunks are sent goes out together, and nothing else changes."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from gistserve.server.api.detokenizer import StopStringScanner
from gistserve.server.api.errors import ApiError
from gistserve.server.api.generation import Choice, Generation, Piece, PreparedPrompt
from gistserve.server.api.streaming import event
from gistserve.server.engine.request import Request, RequestOutput
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.anyio

TOKENS = 4

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=3))
def test_an_event_is_one_line_of_json(data: dict[str, Any]) -> None:
    written = event(data)
    assert written.startswith(b"data: ") and written.endswith(b"\n\n")
    assert b"\n" not in written[:-2]
    assert json.loads(written.removeprefix(b"data: ")) == data


class Anything:
    """Takes the part of what the test does not look at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class Letters:
    """Token 0 is "a", token 1 is "b", and so on."""

    def add(self, token_id: int) -> str:
        return chr(ord("a") + token_id)


def generation(num_choices: int) -> Generation:
    choices = [
        Choice(i, PreparedPrompt([1]), Request(str(i), [1]), Letters(), StopStringScanner(()))  # type: ignore[arg-type]
        for i in range(num_choices)
    ]
    engine = SimpleNamespace(submit_to=lambda request, inbox: None, abort=lambda request_id: None)
    started = Generation(SimpleNamespace(engine=engine), choices, Anything(), Anything())  # type: ignore[arg-type]
    started.start()
    return started


def outputs(order: Sequence[int]) -> list[RequestOutput]:
    """One token of a choice after another, in this order; each choice's last one ends it."""
    left = {choice: order.count(choice) for choice in order}
    written = []
    for choice in order:
        left[choice] -= 1
        reason = None if left[choice] else "length"
        written.append(RequestOutput(str(choice), [left[choice]], finish_reason=reason))
    return written


async def batches_of(generation: Generation, arrivals: Sequence[Sequence[RequestOutput]]) -> Any:
    """The batches of pieces when so many outputs have come by each turn, and what ended them."""
    taken: list[list[Piece]] = []
    batches = generation.batches()
    error = None
    for arrived in arrivals:
        for output in arrived:
            generation._inbox.put(output)
        try:
            taken.append(list(await asyncio.wait_for(anext(batches), 5)))
        except ApiError as raised:
            error = raised
            break
    return taken, error, batches


@given(
    order=st.permutations([choice for choice in range(3) for _ in range(TOKENS)]),
    cuts=st.sets(st.integers(1, 3 * TOKENS - 1)),
)
async def test_pieces_are_the_same_however_they_gather(order: list[int], cuts: set[int]) -> None:
    written = outputs(order)
    edges = [0, *sorted(cuts), len(written)]
    arrivals = [written[a:b] for a, b in pairwise(edges)]
    taken, error, batches = await batches_of(generation(3), arrivals)
    assert error is None
    # A batch is what had come by then: it goes out in one write.
    assert [len(batch) for batch in taken] == [len(arrived) for arrived in arrivals]
    pieces = [piece for batch in taken for piece in batch]
    assert [(piece.choice, piece.token_id) for piece in pieces] == [
        (int(output.request_id), output.new_token_ids[0]) for output in written
    ]
    assert [piece.finish_reason for piece in pieces] == [o.finish_reason for o in written]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


@pytest.mark.parametrize("reason", ["error", "abort"])
async def test_tokens_that_came_before_a_failure_are_told_first(reason: Any) -> None:
    failure = RequestOutput("0", [], finish_reason=reason, error="it failed")
    tokens = [RequestOutput("0", [2]), RequestOutput("0", [3])]
    taken, error, batches = await batches_of(generation(1), [[*tokens, failure]])
    assert ["".join(piece.text for piece in batch) for batch in taken] == ["cd"]
    assert error is None
    with pytest.raises(ApiError) as raised:
        await anext(batches)
    assert raised.value.status_code == (500 if reason == "error" else 503)
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_what_is_ended_says_why_in_place_of_what_was_left() -> None:
    ended = generation(1)
    ended._inbox.put(RequestOutput("0", [2]))
    ended.end(ApiError(504, "too long"))
    with pytest.raises(ApiError, match="too long"):
        await anext(ended.batches())
