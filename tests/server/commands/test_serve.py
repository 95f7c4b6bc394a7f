"""A real server, started as a user starts it, and the commands that talk to it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gistserve.server.api.authentication import owner_of_key
from gistserve.server.cli import app
from gistserve.server.demo.process import ServerProcess
from openai import OpenAI
from typer.testing import CliRunner

POLICY = "Answer every message politely, in one sentence, and sign as Otto. " * 3


@pytest.fixture(scope="module")
def server(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    arguments = ["--model", f"org/tiny={chat_model}", "--store", str(folder / "store")]
    with ServerProcess(arguments, folder / "log", api_key="secret") as process:
        process.wait_until_ready()
        yield process


def run(server: ServerProcess, *arguments: str, stdin: str | None = None) -> str:
    environment = {"GISTSERVE_URL": server.url, "GISTSERVE_API_KEY": "secret", "COLUMNS": "200"}
    result = CliRunner().invoke(app, arguments, input=stdin, env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(server: ServerProcess, **request: Any) -> Any:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0)
    request = {"max_tokens": 8, "temperature": 0.0, **request}
    return client.chat.completions.create(**request)


def test_a_prompt_is_registered_used_and_deleted(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "policy.txt"
    file.write_text(POLICY)
    made = json.loads(run(server, "prompts", "register", str(file), "--name", "polite", "--json"))
    assert made["compression"]["method"] == "gist"
    assert made["compression"]["slots"] == 5
    assert made["compression"]["prompt_tokens"] > len(POLICY.strip())

    assert "polite" in run(server, "prompts", "list")
    assert made["id"] in run(server, "prompts", "show", "polite")
    said = run(server, "chat", "--prompt", "polite", "--message", "Hello", "--max-tokens", "8")

    question = [{"role": "user", "content": "Hello"}]
    by_id = answer(
        server, model="org/tiny", messages=question, extra_body={"prompt_id": made["id"]}
    )
    by_name = answer(server, model="org/tiny/polite", messages=question)
    texts = {by_id.choices[0].message.content, by_name.choices[0].message.content}
    assert texts == {said.removesuffix("\n")}
    assert by_id.usage.prompt_tokens_details.gist_tokens == 5
    assert by_id.usage.prompt_tokens > made["compression"]["prompt_tokens"]

    run(server, "prompts", "delete", "polite")
    assert json.loads(run(server, "prompts", "list", "--json")) == []


def test_a_prompt_kept_exactly_answers_like_the_full_prompt(server: ServerProcess) -> None:
    arguments = ["prompts", "register", "--compression", "prefix", "--json"]
    made = json.loads(run(server, *arguments, stdin=POLICY))
    question = {"role": "user", "content": "Hello"}
    short = answer(
        server, model="org/tiny", messages=[question], extra_body={"prompt_id": made["id"]}
    )
    run(server, "prompts", "delete", made["id"])
    full = answer(
        server,
        model="org/tiny",
        messages=[{"role": "system", "content": POLICY.strip()}, question],
    )
    assert short.choices[0].message.content == full.choices[0].message.content
    assert short.usage.prompt_tokens == full.usage.prompt_tokens


def test_the_readmes_python_example_runs(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = Path(__file__).parents[3] / "README.md"
    examples = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (example for example in examples if "OpenAI" in example)
    changes = {
        "http://127.0.0.1:8000": server.url,
        'api_key="none"': 'api_key="secret"',
        "timeout=600": 'timeout=600, headers={"Authorization": "Bearer secret"}',
        "messages=[": "max_tokens=4, messages=[",
    }
    for old, new in changes.items():
        assert old in example
        example = example.replace(old, new)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.txt").write_text(POLICY)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["prompt"]["compression"]["method"] == "gist"
    run(server, "prompts", "delete", "support")


def test_a_wrong_key_is_told(server: ServerProcess) -> None:
    environment = {"GISTSERVE_URL": server.url, "GISTSERVE_API_KEY": "wrong"}
    result = CliRunner().invoke(app, ["prompts", "list"], env=environment)
    assert result.exit_code == 1
    assert "401" in result.output


def test_the_server_says_where_it_is_and_how_to_ask(server: ServerProcess) -> None:
    said = server.log_tail(100)
    assert f"Serving on {server.url}" in said
    assert "curl" in said
    assert "org/tiny" in said
    assert "secret" not in said


def test_a_request_leaves_a_line_without_its_text_or_key(server: ServerProcess) -> None:
    question = [{"role": "user", "content": "Where are the wombats?"}]
    answer(server, model="org/tiny", messages=question, extra_headers={"X-Request-Id": "mine-1"})
    line = wait_for_line(server, "request_id=mine-1")
    for part in (
        "INFO    request ",
        "method=POST path=/v1/chat/completions status=200",
        f"key={owner_of_key('secret')[:8]}",
        "model=org/tiny",
        "completion_tokens=8 finish_reason=length",
        "e2e_ms=",
    ):
        assert part in line
    whole = server.log_tail(1000)
    assert "wombats" not in whole and "secret" not in whole


def wait_for_line(server: ServerProcess, part: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in server.log_tail(1000).splitlines():
            if part in line:
                return line
        time.sleep(0.05)
    raise AssertionError(f"no line with {part!r} in {server.log_tail(1000)}")


def test_a_server_ends_cleanly_and_keeps_its_prompts(chat_model: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(chat_model), "--store", str(tmp_path / "store")]
    with ServerProcess(arguments, tmp_path / "first.log") as first:
        first.wait_until_ready()
        run(first, "prompts", "register", "--name", "kept", stdin=POLICY)
        second_on_same_store = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
        assert second_on_same_store.exit_code == 1
        assert str(tmp_path / "store") in " ".join(second_on_same_store.stderr.split())
        assert first.stop() == 0, first.log_tail()
    with ServerProcess([*arguments, "--log-format", "json"], tmp_path / "second.log") as second:
        second.wait_until_ready()
        assert "kept" in run(second, "prompts", "list")
        said = run(second, "chat", "--prompt", "kept", "-m", "Hello", "--max-tokens", "4")
        assert len(said.strip()) == 4
        second.stop()
        lines = [json.loads(line) for line in second.log_tail(1000).splitlines()]
    assert {"serving a model", "ready", "request"} <= {line["message"] for line in lines}


def demo_command(chat_model: Path, *arguments: str) -> list[str]:
    module = [sys.executable, "-m", "gistserve.server.cli"]
    return [*module, "demo", "--model", str(chat_model), *arguments]


def test_the_demo_measures_every_arm(chat_model: Path) -> None:
    demo = subprocess.Popen(
        demo_command(chat_model, "--messages", "2", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, said = demo.communicate(timeout=240)
    finally:
        demo.terminate()
        demo.wait(60)
    assert demo.returncode == 0, said
    report = json.loads(output)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert list(arms) == ["gist", "prefix cache", "no cache", "no prompt"]
    made = report["prompts"]["gist"]["compression"]
    assert arms["gist"]["slots"] == made["slots"] == 5
    assert 0 < arms["gist"]["cache_bytes"] < arms["prefix cache"]["cache_bytes"]
    for arm in arms.values():
        assert arm["ttft_median"] > 0
        assert len(arm["answers"]) == 2
        assert all(answer["text"] for answer in arm["answers"])
    # Exact caching changes no answer; without a cache nothing is reused.
    exact = [answer["text"] for answer in arms["prefix cache"]["answers"]]
    plain = [answer["text"] for answer in arms["no cache"]["answers"]]
    assert exact == plain
    assert all(a["cached_tokens"] == 0 for a in arms["no cache"]["answers"])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def started_demo(chat_model: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A demo, and the processes of its servers."""
    demo = subprocess.Popen(
        demo_command(chat_model), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (servers := children(demo.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert servers
    return demo, servers


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_servers_end_with_a_demo_that_is_killed(chat_model: Path) -> None:
    demo, servers = started_demo(chat_model)
    demo.kill()
    demo.communicate()
    deadline = time.monotonic() + 60
    while (left := [pid for pid in servers if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def is_running(pid: int) -> bool:
    """Not even as a zombie, which nobody may be there to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_demo_leaves_no_server_behind_when_it_is_stopped(chat_model: Path, name: str) -> None:
    demo, servers = started_demo(chat_model)
    demo.send_signal(getattr(signal, name))
    _, said = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert b"Traceback" not in said
    assert not [pid for pid in servers if is_alive(pid)]
