import io
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from gistserve.server.cli import app
from gistserve.server.commands import terminal
from rich.console import Console
from typer.testing import CliRunner, Result

from .conftest import StandIn


def invoke(*arguments: str, url: str, stdin: str | None = None) -> Result:
    environment = {"COLUMNS": "200", "GISTSERVE_API_KEY": "", "GISTSERVE_URL": url}
    return CliRunner().invoke(app, ["prompts", *arguments], input=stdin, env=environment)


def test_register_sends_a_text_file_as_system_message(
    server: StandIn, prompt: dict[str, Any], tmp_path: Path
) -> None:
    server.answers["POST", "/v1/prompts"] = (201, prompt)
    file = tmp_path / "policy.txt"
    file.write_text("Be kind.\n")
    options = ["--name", "support", "--compression", "gist", "--ttl", "60", "--gist-tokens", "4"]
    result = invoke("register", str(file), *options, "--api-key", "secret", url=server.url)
    assert result.exit_code == 0, result.output
    assert "pmpt_1" in result.output
    ((method, path, body, key),) = server.requests
    assert (method, path, key) == ("POST", "/v1/prompts", "Bearer secret")
    assert body == {
        "messages": [{"role": "system", "content": "Be kind."}],
        "name": "support",
        "compression": "gist",
        "gist_tokens": 4,
        "ttl": "60s",
        "auto_match": False,
    }


@pytest.mark.parametrize("on_terminal", [True, False])
def test_register_tells_a_terminal_that_it_waits(
    server: StandIn, prompt: dict[str, Any], monkeypatch: pytest.MonkeyPatch, on_terminal: bool
) -> None:
    server.answers["POST", "/v1/prompts"] = (201, prompt)
    answer = server.answer

    def slowly(request: Any) -> tuple[int, bytes]:
        time.sleep(0.3)
        return answer(request)

    server.answer = slowly  # type: ignore[method-assign]
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=on_terminal)
    monkeypatch.setattr(terminal, "err", console)
    assert invoke("register", url=server.url, stdin="Be kind.").exit_code == 0
    assert ("compressing the prompt" in shown.getvalue()) == on_terminal
    assert ("0:00:00" in shown.getvalue()) == on_terminal


def test_register_reads_standard_input_and_prints_json(
    server: StandIn, prompt: dict[str, Any]
) -> None:
    server.answers["POST", "/v1/prompts"] = (201, prompt)
    result = invoke("register", "--json", url=server.url, stdin="Be kind.")
    assert json.loads(result.stdout) == prompt
    assert server.requests[0][2]["messages"][0]["content"] == "Be kind."


def test_register_takes_messages_from_json_and_raw_text(
    server: StandIn, prompt: dict[str, Any], tmp_path: Path
) -> None:
    server.answers["POST", "/v1/prompts"] = (201, prompt)
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    file = tmp_path / "few-shot.json"
    file.write_text(json.dumps(messages))
    assert invoke("register", str(file), url=server.url).exit_code == 0
    assert invoke("register", "--raw", url=server.url, stdin=" x\n").exit_code == 0
    tools = [{"type": "function", "function": {"name": "f"}}]
    file.write_text(json.dumps({"messages": messages, "tools": tools, "comment": "kept here"}))
    assert invoke("register", str(file), url=server.url).exit_code == 0
    assert server.requests[0][2]["messages"] == messages
    assert "tools" not in server.requests[0][2]
    assert server.requests[1][2]["text"] == " x\n"
    sent = server.requests[2][2]
    assert (sent["messages"], sent["tools"]) == (messages, tools)
    assert "comment" not in sent


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot read"),
        ("empty.txt", b" \n", "is empty"),
        ("binary.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("broken.json", b"[{", "not valid JSON"),
        ("number.json", b"5", "no list of messages"),
    ],
)
def test_register_refuses_what_is_no_prompt(
    server: StandIn, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    result = invoke("register", str(file), url=server.url)
    assert result.exit_code == 1
    assert message in result.output
    assert server.requests == []


def test_list_shows_all_pages(server: StandIn, prompt: dict[str, Any]) -> None:
    pages = [
        {"data": [prompt], "has_more": True},
        {"data": [{**prompt, "id": "pmpt_2", "name": None}], "has_more": False},
    ]
    server.answers["GET", "/v1/prompts"] = (200, pages[0])
    respond = server.answer

    def by_page(request: Any) -> tuple[int, bytes]:
        status, _ = respond(request)
        return status, json.dumps(pages[len(server.requests) - 1]).encode()

    server.answer = by_page  # type: ignore[method-assign]
    result = invoke("list", url=server.url)
    assert result.exit_code == 0
    assert "pmpt_1" in result.output
    assert "pmpt_2" in result.output
    assert result.output.count("host") == 2
    assert "1,209" in result.output
    assert server.requests[1][1].endswith("after=pmpt_1")


@pytest.mark.parametrize("reference", ["pmpt_1", "support"])
def test_show_and_delete_take_an_id_or_a_name(
    server: StandIn, prompt: dict[str, Any], reference: str
) -> None:
    server.answers["GET", "/v1/prompts"] = (200, {"data": [prompt], "has_more": False})
    server.answers["DELETE", "/v1/prompts/pmpt_1"] = (200, {"id": "pmpt_1", "deleted": True})
    shown = invoke("show", reference, url=server.url)
    assert shown.exit_code == 0
    for told in ("421,888", "host", "3600s", "1209", "never"):
        assert told in shown.output
    deleted = invoke("delete", reference, "--json", url=server.url)
    assert json.loads(deleted.stdout) == {"id": "pmpt_1", "deleted": True}


def test_an_unknown_prompt_is_told_with_the_choices(
    server: StandIn, prompt: dict[str, Any]
) -> None:
    server.answers["GET", "/v1/prompts"] = (200, {"data": [prompt], "has_more": False})
    result = invoke("show", "nothing", url=server.url)
    assert result.exit_code == 1
    assert "no prompt 'nothing'" in result.output
    assert "support" in result.output


def test_the_servers_own_message_is_shown(server: StandIn) -> None:
    error = {"error": {"message": "The model `x` does not exist."}}
    server.answers["POST", "/v1/prompts"] = (404, error)
    result = invoke("register", "--model", "x", url=server.url, stdin="text")
    assert result.exit_code == 1
    assert "404: The model `x` does not exist." in result.output


def test_an_answer_that_is_not_json_is_told(server: StandIn) -> None:
    server.answers["GET", "/v1/prompts"] = (200, b"<html>")
    result = invoke("list", url=server.url)
    assert result.exit_code == 1
    assert "did not answer with JSON" in result.output


def test_no_server_is_told_with_the_remedy() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = invoke("list", url=url)
    assert result.exit_code == 1
    assert "gistserve serve" in result.output
    assert "Traceback" not in result.output
