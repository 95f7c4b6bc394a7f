"""Schemathesis sends what the server's own OpenAPI document allows, and forbids, to a live server.

It checks that no answer is a server error, that each has a documented status, content type and
schema, that what breaks the schema is refused, that keys are asked for and that what was deleted is
gone. (Values that fit the schema may be refused all the same: JSON Schema cannot tell which token
ids a model has.) GISTSERVE_SCHEMATHESIS_EXAMPLES sends more than a few examples to each operation.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gistserve.compress.store import GistStore
from gistserve.server.api.application import create_app
from gistserve.server.api.served_models import ServedModels
from gistserve.server.api.settings import ServerSettings

from ...chat_model import save_chat_model
from .conftest import Loaded
from .live_server import LiveServer, live
from .test_tools import HERMES_TEMPLATE

pytest.importorskip("schemathesis")

KEY = "sk-test"
EXAMPLES = os.environ.get("GISTSERVE_SCHEMATHESIS_EXAMPLES", "3")
CONFIG = """
[[operations]]
include-name = "GET /v1/models/{name}"
parameters = { name = "tiny" }
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A model that can do all there is: gists, calls of tools, embeddings; of short answers."""
    loaded = Loaded.load("tiny", save_chat_model(tmp_path / "model"))
    loaded.tokenizer.chat_template = HERMES_TEMPLATE
    model = replace(loaded.serve(max_model_len=96), pooling="last")
    with GistStore(tmp_path / "store") as store:
        app = create_app(ServedModels([model]), store, ServerSettings(api_keys=(KEY,)))
        with live(app, lifespan=True) as served:
            yield served
    model.engine.shutdown()


def test_the_server_keeps_to_its_own_document(server: LiveServer, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(config)),
        *("run", f"{server.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {KEY}"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--generation-deterministic", "--max-examples", EXAMPLES),
        *("--continue-on-failure", "--request-timeout", "120", "--no-color"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Operations:       16 selected / 16 total" in done.stdout
