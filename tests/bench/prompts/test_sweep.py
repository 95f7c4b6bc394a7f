"""The order of the arms, and what keeps a figure from being one."""

from dataclasses import replace
from typing import Any

import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.prompts.arm import Arm
from gistserve.bench.prompts.prompt_lengths import check_prompts
from gistserve.bench.prompts.room import Room
from gistserve.bench.prompts.settings import PromptsSettings, ServerSettings, SharedPrefix
from gistserve.bench.prompts.shared_prefix import SharedPrefixLoad
from gistserve.bench.prompts.sweep import Sweep

from ..fake_server import StartServer
from .fake_prompts import FakePrompts

SETTINGS = PromptsSettings(
    ServerSettings("folder"),
    concurrencies=(1, 3),
    requests=2,
    rounds=3,
    output_tokens=4,
    input_tokens=3,
)


def sweep(fake: FakePrompts, settings: PromptsSettings = SETTINGS, **room: Any) -> Any:
    def job(bench: Any) -> Any:
        return Sweep(bench, {"first": "some words"}, list(Arm)).run()

    return fake.run(settings, job, **room)


def test_arms_take_turns_and_a_prompt_is_registered_for_its_turn_alone(
    start_server: StartServer,
) -> None:
    fake = FakePrompts(start_server)
    rounds = sweep(fake)
    none = ["ask none"]
    prefix, gist = ([f"register {m}", f"ask {m}", f"delete {m}"] for m in ("prefix", "gist"))
    first = [*none, *prefix, *gist]
    second, third = [*prefix, *gist, *none], [*gist, *none, *prefix]
    assert fake.steps() == [*first, *second, *third]
    assert [list(done["first"]) for done in rounds] == [["none", "prefix", "gist"]] * 3


def test_a_cell_has_as_many_requests_as_are_sent_at_a_time(start_server: StartServer) -> None:
    fake = FakePrompts(start_server)
    (done,) = sweep(fake, replace(SETTINGS, rounds=1))
    for arm in done["first"].values():
        assert [len(arm["cells"][level]["ttft_ms"]) for level in ("1", "3")] == [2, 3]
    assert fake.server.most_in_flight == 3
    # One request warms each arm up and is in no cell.
    asked = [body for _, path, body in fake.server.requests if path.endswith("completions")]
    assert len(asked) == 3 * (1 + 2 + 3)
    assert done["first"]["gist"]["registration_s"] > 0
    assert done["first"]["none"]["registration_s"] == 0


def test_all_arms_are_asked_the_same(start_server: StartServer) -> None:
    fake = FakePrompts(start_server)
    sweep(fake, replace(SETTINGS, concurrencies=(1,)))
    asked: dict[str, list[str]] = {}
    for _, path, body in fake.server.requests:
        if path.endswith("completions"):
            arm = body.get("prompt_id", "none")
            *system, user = body["messages"]
            assert [m["content"] for m in system] == (["some words"] if arm == "none" else [])
            asked.setdefault(arm, []).append(user["content"])
    none = asked.pop("none")
    assert len(set(none)) == len(none) == 3 * 3
    rounds = [none[start : start + 3] for start in (0, 3, 6)]
    kept = list(asked.values())
    assert sorted(kept) == sorted(rounds * 2)


def test_a_cache_where_none_should_be_is_refused(start_server: StartServer) -> None:
    with pytest.raises(LoadError, match=r"no cache: .*16 cached prompt tokens"):
        sweep(FakePrompts(start_server, leak=16))


def test_what_does_not_fit_or_takes_too_long_is_left_out_in_every_round(
    start_server: StartServer,
) -> None:
    # With four tokens of an answer and ten of input a request takes 8 blocks without a cache and
    # one more is left free for it; a kept prompt takes 7, of which 6 are shared.
    small = Room(num_blocks=18, block_size=16, slot_bytes=8, max_model_len=1024)
    rounds = sweep(FakePrompts(start_server), room=small)
    for done in rounds:
        cells = {arm: found["cells"]["3"] for arm, found in done["first"].items()}
        assert "needs 432 slots" in cells["none"]["left_out"]
        assert "output_throughput" in cells["prefix"]
    slow = replace(SETTINGS, cell_seconds=1e-6)
    for done in sweep(FakePrompts(start_server), slow):
        cells = done["first"]["gist"]["cells"]
        assert "output_throughput" in cells["1"]
        assert "would take up to" in cells["3"]["left_out"]


def test_what_was_measured_once_is_measured_in_every_round(start_server: StartServer) -> None:
    fake = FakePrompts(start_server)
    fake.seconds = lambda prompts: 0.02 if prompts <= 2 else 0.3
    rounds = sweep(fake, replace(SETTINGS, rounds=2, cell_seconds=0.6))
    for done in rounds:
        assert "output_throughput" in done["first"]["gist"]["cells"]["3"]
    assert rounds[1]["first"]["gist"]["cells"]["1"]["e2el_ms"][0] > 250


def test_shared_prompts_lie_in_the_cache_both_ways_while_arms_take_turns(
    start_server: StartServer,
) -> None:
    fake = FakePrompts(start_server)
    shared = SharedPrefix(prompts=2, prompt_tokens=100, requests=3, concurrency=2)
    found = fake.run(SETTINGS, lambda bench: SharedPrefixLoad(bench, shared, 7).run())
    turns = ["prefix", "gist", "gist", "prefix", "prefix", "gist", "gist", "prefix"]
    asks = [f"ask {method}" for method in turns]
    unique = [step for i, step in enumerate(asks) if step not in asks[i - 1 : i]]
    registered, deleted = ["register prefix", "register gist"], ["delete gist", "delete prefix"]
    assert fake.steps() == [*registered, *unique, *deleted]
    for done in found["rounds"]:
        assert all(len(cell["ttft_ms"]) == 6 for cell in done.values())
    asked = {body["prompt_id"] for _, path, body in fake.server.requests if "chat" in path}
    assert len(asked) == 4
    assert len(found["registered"]["gist"]["compression"]) == 2


def test_shared_prompts_that_do_not_fit_are_refused_before_any_is_registered(
    start_server: StartServer,
) -> None:
    fake = FakePrompts(start_server)
    shared = SharedPrefix(prompts=9, prompt_tokens=100, requests=1, concurrency=2)
    with pytest.raises(LoadError, match=r"needs 1,216 slots.*which has 960.*--kv-cache-memory"):
        fake.run(SETTINGS, lambda bench: SharedPrefixLoad(bench, shared, 7).run())
    longer = SharedPrefix(prompts=1, prompt_tokens=920, requests=1, concurrency=1)
    with pytest.raises(LoadError, match=r"920 tokens are too long.* can be 909"):
        fake.run(SETTINGS, lambda bench: SharedPrefixLoad(bench, longer, 24).run())
    assert fake.server.requests == []


def test_prompts_that_no_arm_could_serve_are_refused(start_server: StartServer) -> None:
    fake = FakePrompts(start_server)
    fake.server.documents["POST /tokenize"] = lambda body: {
        "count": len(body["messages"][0]["content"])
    }

    def check(words: int, **room: Any) -> Any:
        prompts = {"first": "a" * words}
        return fake.run(SETTINGS, lambda bench: check_prompts(bench, prompts, 24), **room)

    check(1000, room=Room(100, 16, 8, max_model_len=1024))
    with pytest.raises(LoadError, match=r"first has 1,001 tokens; with 24 .*model's 1,024"):
        check(1001, room=Room(100, 16, 8, max_model_len=1024))
    with pytest.raises(LoadError, match=r"Prompt first needs 1,056 slots.*--kv-cache-memory"):
        check(1000)
