"""Bounds request bodies, each and together, whether their length is announced or not."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, respond

# Python refuses to read numbers of thousands of digits.
_MOST_DIGITS = 18
# uvicorn reads as much ahead for each connection anyway.
_UNCOUNTED_BYTES = 64 * 1024


class BodyLimitMiddleware:
    """Answers 413 to bodies over `max_bytes`; a false Content-Length does not help a client.

    Bodies together may hold `max_total_bytes`: those that would exceed it get 429. Each counts from
    its 65,537th byte on, as it is read, until its answer begins: that of a stream at once, any
    other when it is whole. So small requests pass whatever others send.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_total_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_total_bytes = max_total_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:_MOST_DIGITS]) > self.max_bytes:
            return await respond(self._too_large())(scope, receive, send)
        read = held = 0

        async def bounded_receive() -> Message:
            nonlocal read, held
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                read += size
                if read > self.max_bytes:
                    raise self._too_large()
                more = min(size, max(0, read - _UNCOUNTED_BYTES))
                if more > self.max_total_bytes - self._held:
                    raise self._too_many()
                held += more
                self._held += more
            return message

        def release() -> None:
            nonlocal held
            self._held -= held
            held = 0

        async def releasing_send(message: Message) -> None:
            if held:
                release()
            await send(message)

        try:
            await self.app(scope, bounded_receive, releasing_send)
        finally:
            release()

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request body is larger than {self.max_bytes} bytes.",
            code="body_too_large",
            headers={"Connection": "close"},
        )

    def _too_many(self) -> ApiError:
        return ApiError(
            429,
            "The server holds as many large request bodies as it may. Try again later.",
            code="bodies_too_large",
            headers={"Connection": "close", "Retry-After": "1"},
        )
