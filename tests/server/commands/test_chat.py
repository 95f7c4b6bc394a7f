import json
from typing import Any

from gistserve.server.cli import app
from typer.testing import CliRunner, Result

from .conftest import StandIn


def invoke(*arguments: str, url: str, stdin: str | None = None) -> Result:
    environment = {"COLUMNS": "200", "GISTSERVE_API_KEY": "", "GISTSERVE_URL": url}
    return CliRunner().invoke(app, ["chat", *arguments], input=stdin, env=environment)


def stream(*pieces: str) -> bytes:
    """The SSE body of a chat completion with these pieces of text."""
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    chunks = [
        {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    chunks.append({**common, "choices": []})
    lines = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def test_one_message_goes_to_the_servers_first_model(server: StandIn) -> None:
    server.answers["GET", "/v1/models"] = (200, {"data": [{"id": "org/model"}]})
    server.answers["POST", "/v1/chat/completions"] = (200, stream("Hel", "lo"))
    result = invoke("--message", "Hi", url=server.url)
    assert (result.exit_code, result.stdout) == (0, "Hello\n")
    body = server.requests[-1][2]
    assert body["model"] == "org/model"
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert body["stream"] is True
    assert "prompt_id" not in body


def test_a_prompt_is_given_by_name(server: StandIn, prompt: dict[str, Any]) -> None:
    server.answers["GET", "/v1/prompts"] = (200, {"data": [prompt], "has_more": False})
    server.answers["POST", "/v1/chat/completions"] = (200, stream("ok"))
    result = invoke("--prompt", "support", "-m", "Hi", "--api-key", "secret", url=server.url)
    assert result.exit_code == 0
    *_, body, key = server.requests[-1]
    assert (body["prompt_id"], body["model"], key) == ("pmpt_1", "org/model", "Bearer secret")


def test_a_conversation_carries_its_turns_until_new_and_exit(server: StandIn) -> None:
    server.answers["POST", "/v1/chat/completions"] = (200, stream("answer"))
    lines = "one\n\ntwo\n/new\nthree\n/exit\nfour\n"
    result = invoke("--model", "m", url=server.url, stdin=lines)
    assert result.exit_code == 0
    sent = [[message["content"] for message in body["messages"]] for *_, body, _ in server.requests]
    assert sent == [["one"], ["one", "answer", "two"], ["three"]]


def test_a_refused_turn_is_told_and_forgotten(server: StandIn) -> None:
    error = {"error": {"message": "This model's maximum context length is 8 tokens."}}
    server.answers["POST", "/v1/chat/completions"] = (400, error)
    result = invoke("--model", "m", url=server.url, stdin="one\ntwo\n")
    assert result.exit_code == 0
    assert result.output.count("maximum context length is 8") == 2
    assert [len(body["messages"]) for *_, body, _ in server.requests] == [1, 1]


def test_a_refused_single_message_fails(server: StandIn) -> None:
    server.answers["POST", "/v1/chat/completions"] = (404, {"error": {"message": "No such model."}})
    result = invoke("--model", "m", "-m", "Hi", url=server.url)
    assert result.exit_code == 1
    assert "No such model." in result.output
