"""Times of /health, of a server whose delays are known."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from gistserve.bench.http_overhead.health import probe

_DELAYS = (0.0, 0.06, 0.0, 0.0)


class _Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = 0

    def do_GET(self) -> None:
        assert self.path == "/health"
        time.sleep(_DELAYS[_Slow.seen % len(_DELAYS)])
        _Slow.seen += 1
        self.send_response(503 if _Slow.seen > len(_DELAYS) else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    _Slow.seen = 0
    with HTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_each_request_is_timed_by_itself_and_sent_when_it_is_due(port: int) -> None:
    start = time.perf_counter()
    taken = probe("127.0.0.1", port, len(_DELAYS), 0.1)
    assert time.perf_counter() - start >= 0.3
    assert len(taken) == len(_DELAYS)
    assert taken.index(max(taken)) == 1
    assert taken[1] >= 0.06


def test_an_unhealthy_server_is_no_measurement(port: int) -> None:
    with pytest.raises(RuntimeError, match="503"):
        probe("127.0.0.1", port, len(_DELAYS) + 1, 0.0)
