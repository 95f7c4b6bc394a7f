"""Which peers are found, and how they are told what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gistserve.bench.peers import llama_server, transformers_server
from gistserve.bench.peers.llama_server import LlamaBindings, LlamaServer, find_llama
from gistserve.bench.peers.our_server import OurServer
from gistserve.bench.peers.peer import Missing
from gistserve.bench.peers.plan import Plan, whole_pages
from gistserve.bench.peers.transformers_server import TransformersServer, find_transformers

PLAN = Plan(
    folder=Path("/w/model"),
    gguf=Path("/w/model.gguf"),
    work=Path("/w"),
    dtype="bfloat16",
    kv_bytes_per_token=1000,
    threads=3,
    slots=8,
    slot_tokens=512,
)


def value(options: list[str], name: str) -> str:
    return options[options.index(name) + 1]


def test_what_is_nowhere_is_missing_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(llama_server, "find_spec", lambda name: None)
    found = find_transformers(None)
    assert isinstance(found, Missing)
    assert "pip install" in found.reason and "--transformers" in found.reason
    found = find_llama(None)
    assert isinstance(found, Missing)
    assert "--llama-server" in found.reason


def test_the_native_server_is_preferred_to_the_bindings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(llama_server, "find_spec", lambda name: object())
    assert isinstance(find_llama(None), LlamaBindings)
    (tmp_path / "llama-server").touch(mode=0o755)
    found = find_llama(None)
    assert isinstance(found, LlamaServer)
    assert found.program == [str(tmp_path / "llama-server")]


def test_commands_are_taken_as_given() -> None:
    found = find_llama("/v/bin/python -m llama_cpp.server")
    assert isinstance(found, LlamaBindings)
    assert found.program == ["/v/bin/python", "-m", "llama_cpp.server"]
    native = find_llama("'/a b/llama-server'")
    assert isinstance(native, LlamaServer)
    assert native.program == ["/a b/llama-server"]
    assert find_transformers("/v/bin/transformers").program == ["/v/bin/transformers"]


def test_transformers_of_this_environment_comes_before_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, path = tmp_path / "here", tmp_path / "path"
    for folder in (here, path):
        folder.mkdir()
        (folder / "transformers").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(transformers_server.sys, "executable", str(here / "python"))
    assert find_transformers(None).program == [str(here / "transformers")]
    (here / "transformers").unlink()
    assert find_transformers(None).program == [str(path / "transformers")]


def test_all_get_the_same_room_threads_and_precision() -> None:
    ours = OurServer().options(PLAN, 1)
    theirs = TransformersServer(["x"]).options(PLAN, 1)
    native = LlamaServer(["x"]).options(PLAN, 1)
    tokens = 8 * 512
    assert int(value(ours, "--kv-cache-memory")) == tokens * 1000
    assert int(value(theirs, "--cb-num-blocks")) * int(value(theirs, "--cb-block-size")) == tokens
    assert int(value(native, "--ctx-size")) == tokens
    assert value(ours, "--max-num-seqs") == value(native, "--parallel") == "8"
    assert value(ours, "--dtype") == value(theirs, "--dtype") == "bfloat16"
    assert value(native, "--cache-type-k") == value(native, "--cache-type-v") == "bf16"
    assert value(native, "--threads") == value(native, "--threads-batch") == "3"
    bindings = LlamaBindings(["x"]).options(PLAN, 1)
    assert value(bindings, "--n_threads") == "3"
    assert value(bindings, "--n_ctx") == "512"


@pytest.mark.parametrize(("tokens", "pages"), [(1, 256), (256, 256), (257, 512)])
def test_room_comes_in_whole_pages(tokens: int, pages: int) -> None:
    assert whole_pages(tokens) == pages


def test_a_version_is_the_programs_own_line(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho loading >&2\necho 'version: 9 (abc)' >&2\necho built\n")
    program.chmod(0o755)
    assert LlamaServer([str(program)]).version() == "version: 9 (abc)"
    assert TransformersServer(["/bin/echo", "5.1.0"]).version() == "5.1.0 version"
    assert "No such file" in LlamaServer(["/nowhere/llama-server"]).version()
