"""An OpenAI-compatible interface that answers from a rule and misbehaves as told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Misbehaviour:
    """What happens to a request instead of an answer; without a status the line is dropped."""

    status: int | None = None
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class FakeEndpoint:
    """`answer(question)` is the text; `troubles[question]` go before it, one a request.

    `requests` are (question, body, headers) in the order they came, `most` those at once.
    """

    url: str = ""
    answer: Callable[[str], str | None] = lambda question: (
        f"About {question}. So the answer is {question.upper()}."
    )
    finish_reason: str = "stop"
    seconds: float = 0.0
    troubles: dict[str, list[Misbehaviour]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    most: int = 0
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self) -> list[str]:
        return [question for question, _, _ in self.requests]

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        chat = request.path.endswith("/chat/completions")
        question = body["messages"][-1]["content"] if chat else body["prompt"]
        question = question.removesuffix("\nA:").rpartition("Q: ")[2]
        with self._lock:
            self.requests.append((question, body, dict(request.headers)))
            trouble = self.troubles.get(question, [])
            current = trouble.pop(0) if trouble else None
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            self._answer(request, current, question, chat)
        finally:
            with self._lock:
                self._running -= 1

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        trouble: Misbehaviour | None,
        question: str,
        chat: bool,
    ) -> None:
        time.sleep(trouble.seconds if trouble else self.seconds)
        if trouble is not None and trouble.status is None:
            request.close_connection = True
            return
        text = self.answer(question)
        said = {"message": {"content": text}} if chat else {"text": text}
        body = json.dumps({"choices": [said | {"finish_reason": self.finish_reason}]}).encode()
        if trouble is not None and trouble.status is not None:
            body = trouble.body
        request.send_response(trouble.status or 200 if trouble else 200)
        for name, value in (trouble.headers if trouble else {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def fake_endpoint(**settings: Any) -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            fake.handle(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # of a client that was killed, or lost patience
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        fake.url = f"http://127.0.0.1:{http.server_port}/v1"
        yield fake
        http.shutdown()
        thread.join()
