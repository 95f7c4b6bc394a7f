"""API keys: one check in front of everything that shows or uses a model."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError, respond

_OPEN_OWNER = ""


def owner_of_key(key: str) -> str:
    """The name under which a key's prompts are kept: a hash, so that no store holds a key."""
    return hashlib.sha256(b"gistserve-owner:" + key.encode()).hexdigest()[:32]


def request_owner(connection: HTTPConnection) -> str:
    """Who makes this request; "" on a server without keys."""
    return str(getattr(connection.state, "owner", _OPEN_OWNER))


class ApiKeyMiddleware:
    """Refuses requests without a known key before their body is read.

    Args:
        protected: beginnings of the paths that need a key; all others are open.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], protected: Sequence[str]) -> None:
        self.app = app
        self.protected = tuple(protected)
        self.owners = {_digest(key): owner_of_key(key) for key in keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.protected):
            return await self.app(scope, receive, send)
        connection = HTTPConnection(scope)
        if self.owners and scope["method"] != "OPTIONS":
            owner = self._owner(connection.headers.get("authorization", ""))
            if owner is None:
                return await respond(_unauthorized())(scope, receive, send)
            connection.state.owner = owner
        await self.app(scope, receive, send)

    def _owner(self, header: str) -> str | None:
        scheme, _, key = header.partition(" ")
        presented = _digest(key.strip())
        found = None
        # Every key is compared, in constant time, so that timing tells nothing about any.
        for digest, owner in self.owners.items():
            if hmac.compare_digest(digest, presented):
                found = owner
        return found if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _unauthorized() -> ApiError:
    return ApiError(
        401,
        "Incorrect or missing API key. Send it as `Authorization: Bearer KEY`.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
