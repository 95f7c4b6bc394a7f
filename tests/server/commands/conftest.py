"""A stand-in for the HTTP server: answers are given, requests are kept."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ...chat_model import save_chat_model


@dataclass
class StandIn:
    """`answers[(method, path without query)]` is (status, body); `requests` are what came."""

    url: str = ""
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any, str | None]] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        length = int(request.headers.get("Content-Length", 0))
        body = json.loads(request.rfile.read(length)) if length else None
        key = request.headers.get("Authorization")
        self.requests.append((request.command, request.path, body, key))
        status, answer = self.answers.get(
            (request.command, request.path.partition("?")[0]),
            (404, {"error": {"message": "Not found."}}),
        )
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            status, body = stand_in.answer(self)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            stream = body.startswith(b"data:")
            self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        stand_in.url = f"http://127.0.0.1:{http.server_port}"
        yield stand_in
        http.shutdown()
        thread.join()


@pytest.fixture
def prompt() -> dict[str, Any]:
    """A prompt resource as the server describes one."""
    return {
        "id": "pmpt_1",
        "object": "prompt",
        "name": "support",
        "model": "org/model",
        "created_at": 1_700_000_000,
        "expires_at": 1_700_003_600,
        "ttl": "3600s",
        "status": "ready",
        "compression": {
            "method": "gist",
            "prompt_tokens": 412,
            "gist_tokens": 8,
            "slots": 9,
            "ratio": 45.8,
            "cache_bytes": 9216,
            "uncompressed_bytes": 421888,
        },
        "storage": {"tier": "host", "device_bytes": 0, "host_bytes": 9216, "disk_bytes": 9216},
        "usage": {"requests": 3, "tokens_saved": 1209, "last_used_at": None},
        "metadata": {},
    }


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random chat model with a gist adapter of 4 gist tokens."""
    return save_chat_model(tmp_path_factory.mktemp("models") / "tiny")
