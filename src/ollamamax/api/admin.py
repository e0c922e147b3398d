"""The admin API's place in the application. FastAPI takes long to import, so that waits for the first request."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Send

from ollamamax.api.call import Call


class LazyAdmin:
    """Builds the admin API on its first request and hands requests over to it."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._building = asyncio.Lock()

    async def handle(self, call: Call) -> None:
        """Read the body within the limits and let the admin API answer."""
        body = await call.body()
        async with self._building:
            if self._app is None:
                self._app = await asyncio.to_thread(_build, call)
        await self._app(call.scope, _receiver(body, call.receive), _sender(call))


def _build(call: Call) -> ASGIApp:
    from ollamamax.api.admin_app import build_admin

    return build_admin(call.services)


def _receiver(body: bytes, receive: Receive) -> Receive:
    """The body that was read already, then what the connection says."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return unread.pop() if unread else await receive()

    return next_message


def _sender(call: Call) -> Send:
    """Adds the headers that every reply carries."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            call.status = message["status"]
            message = {**message, "headers": [*call.extra_headers, *message["headers"]]}
        await call.send(message)

    return send
