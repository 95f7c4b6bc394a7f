"""A program that stands in for a server: fixed answers, and faults that a test asks for.

    python fake_program.py [--refuse-start] [--deaf] [--spin] ... --port PORT

It counts a prompt's words as its tokens and answers with as many chunks as tokens are wanted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """`GET` says that all is well; `POST` completes."""

    protocol_version = "HTTP/1.1"
    extra_tokens = 0
    hang_up = False

    def do_GET(self) -> None:
        self._send(b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        count = body["max_tokens"] + self.extra_tokens
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "text": " x", "finish_reason": None}]} for _ in range(count)
        ]
        chunks.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
        chunks[-1]["usage"] = {
            "prompt_tokens": len(body["prompt"].split()),
            "completion_tokens": count,
        }
        self._send(b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks))
        self.close_connection = self.hang_up

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--refuse-start", action="store_true")
    parser.add_argument("--deaf", action="store_true", help="do not end when asked")
    parser.add_argument("--spin", action="store_true", help="take processor time while idle")
    parser.add_argument("--hang-up", action="store_true", help="close connections unannounced")
    parser.add_argument("--extra-tokens", type=int, default=0)
    chosen, _ = parser.parse_known_args()
    if chosen.refuse_start:
        sys.exit("no such model")
    if chosen.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if chosen.spin:
        threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
    Handler.extra_tokens = chosen.extra_tokens
    Handler.hang_up = chosen.hang_up
    print("listening", flush=True)
    ThreadingHTTPServer(("127.0.0.1", chosen.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
