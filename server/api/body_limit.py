"""Bounds the request body, whether its length is announced or not."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, respond

# Python refuses to read numbers of thousands of digits.
_MOST_DIGITS = 18


class BodyLimitMiddleware:
    """Answers 413 to bodies over `max_bytes`; a false Content-Length does not help a client."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:_MOST_DIGITS]) > self.max_bytes:
            return await respond(self._too_large())(scope, receive, send)
        read = 0

        async def bounded_receive() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self.max_bytes:
                    raise self._too_large()
            return message

        await self.app(scope, bounded_receive, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request body is larger than {self.max_bytes} bytes.",
            code="body_too_large",
            headers={"Connection": "close"},
        )
