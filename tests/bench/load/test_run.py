"""Whole load tests against a fake server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.cli import app
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.lengths import parse_lengths
from gistserve.bench.load.point import Point
from gistserve.bench.load.report import remarks
from gistserve.bench.load.run import measure_load
from gistserve.bench.load.settings import LoadSettings
from gistserve.bench.load.workload import Workload
from rich.console import Console
from typer.testing import CliRunner

from ..fake_server import DONE, FakeServer, StartServer, Step, data, text, usage

TOKENS_PER_WORD = 3
TEMPLATE_TOKENS = 4


def answer(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
    """As many tokens as were asked for, each in a chunk."""
    words = prompt_text(body).split()
    count = body["max_tokens"]
    chunks = [text("a") for _ in range(count - 1)]
    total = TEMPLATE_TOKENS + TOKENS_PER_WORD * len(words)
    return 200, [*chunks, text("b", "length"), usage(total, count), DONE]


def prompt_text(body: dict[str, Any]) -> str:
    if "messages" in body:
        return " ".join(message["content"] for message in body["messages"])
    return body["prompt"]


@pytest.fixture
def server(start_server: StartServer) -> FakeServer:
    fake = start_server(answer)
    fake.documents["GET /v1/models"] = {"data": [{"id": "org/tiny"}, {"id": "other"}]}
    return fake


def settings(server: FakeServer, prompts: int = 0, **more: Any) -> LoadSettings:
    plan = Workload(parse_lengths("12"), parse_lengths("uniform:2,5"), prompts, parse_lengths("30"))
    fields = {"points": (Point(2), Point(rate=200.0)), "requests": 6} | more
    return LoadSettings(url=server.url, workload=plan, **fields)


def measure(settings: LoadSettings) -> dict[str, Any]:
    return measure_load(settings, Console(quiet=True))


def bodies(server: FakeServer) -> list[dict[str, Any]]:
    return [body for method, path, body in server.requests if path.endswith("completions")]


def test_every_point_is_measured_after_its_warm_up(server: FakeServer) -> None:
    result = measure(settings(server, warmup=3))
    assert result["model"] == "org/tiny"
    assert result["tokens_per_word"] == TOKENS_PER_WORD
    assert len(bodies(server)) == 2 + 2 * (3 + 6)
    closed, opened = result["points"]
    assert closed["load"] == {"loop": "closed", "concurrency": 2}
    assert opened["load"] == {"loop": "open", "rate": 200.0, "burstiness": 1.0}
    for point in (closed, opened):
        assert (point["requests"], point["failed"], point["answers_of_other_length"]) == (6, 0, 0)
        wanted = point["samples"]["wanted_tokens"]
        assert point["output_tokens"] == sum(wanted)
        assert set(wanted) <= {2, 3, 4, 5}
        # 12 tokens are 4 words of 3 tokens, and the template adds its own.
        assert point["samples"]["prompt_tokens"] == [12 + TEMPLATE_TOKENS] * 6
        assert point["server"] is None
    # So short a run may find the client busy, or late.
    assert [said for said in remarks(result) if "busy" not in said and "late" not in said] == []


def test_the_same_seed_asks_the_same(server: FakeServer) -> None:
    asked = []
    for seed in (5, 5, 6):
        server.requests.clear()
        measure(settings(server, prompts=2, seed=seed, points=(Point(1),)))
        asked.append([prompt_text(body) for body in bodies(server)])
    assert asked[0] == asked[1] != asked[2]


def test_points_share_prompts_but_no_inputs(server: FakeServer) -> None:
    measure(settings(server, prompts=3, endpoint=Endpoint.chat, points=(Point(1), Point(1))))
    messages = [body["messages"] for body in bodies(server)[2:]]
    assert len(messages) == 3 + 6 + 2 + 6  # the first warm-up meets every prompt
    assert len({system["content"] for system, _ in messages}) == 3
    assert len({system["content"] for system, _ in messages[:3]}) == 3
    assert len({user["content"] for _, user in messages}) == len(messages)


def test_without_warm_up_nothing_is_sent_before(server: FakeServer) -> None:
    measure(settings(server, prompts=3, points=(Point(1),), warmup=0))
    assert len(bodies(server)) == 2 + 6


def test_a_server_that_refuses_ignore_eos_is_asked_without(start_server: StartServer) -> None:
    def picky(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        if "ignore_eos" in body:
            return 400, [b'{"error": {"message": "Unrecognized request argument: ignore_eos"}}']
        end = [text("b", "stop"), usage(2 + len(prompt_text(body).split()), 2), DONE]
        return 200, [text("a"), *end]

    server = start_server(picky)
    result = measure(settings(server, model="m", points=(Point(1),)))
    assert result["ignore_eos"] is False
    point = result["points"][0]
    assert point["failed"] == 0
    short = sum(wanted != 2 for wanted in point["samples"]["wanted_tokens"])
    assert point["answers_of_other_length"] == short > 0
    said = "\n".join(remarks(result))
    assert "ignore the end token" in said
    assert f"{short} answers had another length" in said


def test_without_usage_tokens_are_unknown_and_that_is_said(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (200, [text("a"), text("b", "length"), DONE]))
    result = measure(settings(server, model="m", points=(Point(1),)))
    assert result["tells_usage"] is False
    assert result["points"][0]["output_throughput"] is None
    assert result["points"][0]["request_throughput"] > 0
    assert "tells no usage" in "\n".join(remarks(result))


def test_a_server_that_breaks_its_promise_of_keep_alive_is_measured(server: FakeServer) -> None:
    kept = measure(settings(server))
    server.keep_alive = False
    broken = measure(settings(server))
    assert [point["failed"] for point in broken["points"]] == [0, 0]
    assert [result["client"]["keep_alive"] for result in (kept, broken)] == [True, False]
    assert "had promised to keep" in "\n".join(remarks(broken))


def test_failures_are_counted_and_said(start_server: StartServer) -> None:
    def shaky(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        if len(server.requests) > 6:
            return 429, [data({"error": {"message": "Queue full."}})]
        return answer(path, body)

    server = start_server(shaky)
    result = measure(settings(server, model="m", points=(Point(1),)))
    point = result["points"][0]
    assert 0 < point["failed"] < 6
    said = "\n".join(remarks(result))
    assert f"1 at a time: {point['failed']} failed: HTTP 429" in said


def test_a_server_that_answers_nothing_ends_the_test(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (404, [b'{"error": {"message": "No such model."}}']))
    with pytest.raises(LoadError, match=r"HTTP 404: No such model\."):
        measure(settings(server, model="m"))
    with pytest.raises(LoadError, match="lists no model"):
        measure(settings(server))


def test_registered_prompts_are_referred_to_and_deleted(server: FakeServer) -> None:
    made: list[dict[str, Any]] = []

    def register(body: dict[str, Any]) -> dict[str, Any]:
        made.append(body)
        sizes = {"prompt_tokens": 30, "slots": 5, "cache_bytes": 500, "uncompressed_bytes": 3000}
        return {"id": f"pmpt_{len(made)}", "compression": {"method": "gist"} | sizes}

    server.documents["POST /v1/prompts"] = register
    server.documents |= {f"DELETE /v1/prompts/pmpt_{n}": {"deleted": True} for n in (1, 2)}
    result = measure(settings(server, prompts=2, register="gist", points=(Point(1),)))
    assert [body["compression"] for body in made] == ["gist", "gist"]
    assert all(body["text"].endswith("\n") for body in made)
    assert result["registered"]["cache_bytes"] == 1000
    assert result["registered"]["method"] == "gist"
    asked = bodies(server)[2:]
    assert {body["prompt_id"] for body in asked} == {"pmpt_1", "pmpt_2"}
    assert not any(made[0]["text"] in body["prompt"] for body in asked)
    deleted = [path for method, path, _ in server.requests if method == "DELETE"]
    assert deleted == ["/v1/prompts/pmpt_1", "/v1/prompts/pmpt_2"]
    assert "2 prompts registered as gist: 60 tokens" in "\n".join(remarks(result))


def test_registering_needs_prompts_and_a_server_that_can(server: FakeServer) -> None:
    with pytest.raises(LoadError, match="--prompts"):
        measure(settings(server, register="gist"))
    with pytest.raises(LoadError, match="HTTP 404"):
        measure(settings(server, prompts=1, register="gist"))


def test_the_servers_own_totals_are_set_beside(server: FakeServer) -> None:
    scrapes = iter((10, 16))

    def metrics(_: Any) -> str:
        return (
            f'gistserve:e2e_request_latency_seconds_count{{model_name="org/tiny"}} {next(scrapes)}'
        )

    server.documents["GET /metrics"] = metrics
    point = measure(settings(server, points=(Point(2),)))["points"][0]
    assert point["server"] == {"requests": {"client": 6, "server": 6.0, "ratio": 1.0}}


def test_the_command_writes_prints_and_plots(server: FakeServer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "load.json"
    words = ["serve", "--url", f"{server.url}/v1/", "--output", str(output), "--requests", "5"]
    words += ["--concurrency", "1", "--concurrency", "4", "--rate", "100", "--slo", "ttft:1000"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 at a time" in done.output
    assert "goodput/s" in done.output
    written = json.loads(output.read_text(encoding="utf-8"))
    assert [point["load"]["loop"] for point in written["points"]] == ["closed", "closed", "open"]
    assert written["slo_ms"] == {"ttft": 1000.0}
    assert {"command", "commit", "versions", "processor"} <= set(written["made_by"])
    assert output.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slo", "itl:3"], "is no objective"),
        (["--input-tokens", "many"], "is no distribution of lengths"),
        (["--rate", "0"], "must be above 0"),
        (["--url", "http://127.0.0.1:9"], "Is an OpenAI-compatible server running there?"),
    ],
)
def test_the_command_ends_with_one_line_about_bad_values(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())


def test_the_command_fails_where_every_request_does(start_server: StartServer) -> None:
    def dying(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        return answer(path, body) if len(server.requests) <= 2 else (500, [b"gone"])

    server = start_server(dying)
    words = ["--url", server.url, "--model", "m", "--requests", "2", "--concurrency", "1"]
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 1
    assert "every request failed" in done.output
