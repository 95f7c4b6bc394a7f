"""The command line's frame: its help is quick, and its wings stay apart."""

import subprocess
import sys

import pytest
from gistserve.server.cli import app
from typer.testing import CliRunner


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


COMMANDS = ["", "serve", "prompts", "prompts register", "chat", "demo", "train", "train gist"]
COMMANDS += ["train demo", "train annotate", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_lists_the_lazy_commands() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    for command in ("serve", "prompts", "chat", "demo", "train", "bench"):
        assert command in output


def test_help_imports_nothing_heavy() -> None:
    run_python(
        """
import sys
from gistserve.server.cli import app
from typer.testing import CliRunner
for arguments in (["--help"], ["serve", "--help"], ["train", "gist", "--help"]):
    assert CliRunner().invoke(app, arguments).exit_code == 0
heavy = {"torch", "transformers", "fastapi", "openai", "httpx", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    )


def test_the_server_never_imports_a_trainer() -> None:
    run_python(
        """
import importlib, pkgutil, sys
import gistserve.server
for module in pkgutil.walk_packages(gistserve.server.__path__, "gistserve.server."):
    importlib.import_module(module.name)
wings = ("gistserve.training", "gistserve.bench", "peft", "tensorboard", "matplotlib")
found = [name for name in sys.modules if name.startswith(wings)]
assert not found, found
"""
    )


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.output
