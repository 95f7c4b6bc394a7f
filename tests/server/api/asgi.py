"""Calling the application as uvicorn does, where a client of HTTP would show too little."""

from typing import Any
from urllib.parse import unquote


def http_scope(
    method: str, target: str, headers: list[tuple[bytes, bytes]] | None = None
) -> dict[str, Any]:
    """The ASGI scope of one request; without headers it is one of JSON."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"content-type", b"application/json")] if headers is None else headers,
        "client": ("test", 1),
        "server": ("test", 80),
        "state": {},
    }
