"""What the connections of one listener share."""

import asyncio
from typing import Any

from msgspec import Struct
from starlette.types import ASGIApp


class Config(Struct, frozen=True):
    """loaded_app: answers the requests.  timeout_keep_alive: for how many seconds a connection may be idle."""

    loaded_app: ASGIApp
    timeout_keep_alive: float


class ServerState:
    """Connections that are open, requests that are being answered, and headers that every response carries.

    is_ending: connections serve on after no answer that begins from now on.
    """

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.total_requests = 0
        self.is_ending = False
        self.default_headers: list[tuple[bytes, bytes]] = []
