"""The admin API of what happens in the cluster: a list, or a stream that goes on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ollamamax.api.admin_call import call_of, cluster_of, context_of
from ollamamax.api.call import Call
from ollamamax.api.ports import Services
from ollamamax.api.streaming import Watch, watched
from ollamamax.core.dialects.framing import NDJSON_TYPE, ndjson
from ollamamax.core.errors import ClientGone
from ollamamax.core.types import ClusterEvent

_SIGN_OF_LIFE_S: Final = 15.0
"""An empty line after so much silence, so that a client that vanished is noticed."""


def add_events(app: FastAPI, services: Services) -> None:
    """Its route."""

    @app.get("/events", response_class=Response, responses={200: {"content": {"application/x-ndjson": {}}}})
    async def events(
        request: Request,
        follow: Annotated[bool, Query(description="go on with what happens from now on")] = False,
        after: Annotated[int, Query(ge=0, description="only what happened after this `at_ns`")] = 0,
    ) -> Response:
        """What happened, one JSON object per line, oldest first. With `follow`, empty lines are signs of life."""
        services.gateway.authorize(context_of(request), "read", "")
        cluster = cluster_of(services)
        if follow:
            return _Following(call_of(request), cluster.events(after))
        lines = b"".join(_line(event) for event in cluster.recent_events() if event.at_ns > after)
        return Response(lines, media_type=NDJSON_TYPE)


class _Following(Response):
    """Sends events as they come, until the client leaves or the node stops."""

    def __init__(self, call: Call, events: AsyncGenerator[ClusterEvent, None]) -> None:
        super().__init__()
        self._call = call
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer through the call itself, which knows about clients that leave or stop reading."""
        source = _with_silences(self._events)

        async def work(watch: Watch) -> None:
            await self._call.start(200, NDJSON_TYPE.encode())
            async for event in source:
                await watch.write(b"\n" if event is None else _line(event))
            await self._call.write(b"", more=False)

        with suppress(ClientGone):
            await watched(self._call, source, lambda text: ndjson({"error": text}), work)


async def _with_silences(events: AsyncGenerator[ClusterEvent, None]) -> AsyncGenerator[ClusterEvent | None, None]:
    """The same events, and None at once and whenever nothing came for a while."""
    following: asyncio.Task[ClusterEvent | None] | None = None
    try:
        yield None
        while True:
            following = following or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait([following], timeout=_SIGN_OF_LIFE_S)
            if not done:
                yield None
                continue
            event = following.result()
            following = None
            if event is None:
                return
            yield event
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        await events.aclose()


async def _next(events: AsyncGenerator[ClusterEvent, None]) -> ClusterEvent | None:
    return await anext(events, None)


def _line(event: ClusterEvent) -> bytes:
    built: dict[str, Any] = msgspec.to_builtins(event)
    return ndjson(built)
