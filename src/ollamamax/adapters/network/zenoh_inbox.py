"""Hands what zenoh's threads hear to the event loop, in order and bounded."""

import asyncio
import threading
from collections import deque
from typing import Final

from ollamamax.ports import MeshEvent

MAX_MESSAGES: Final = 8_192
MAX_BYTES: Final = 64 << 20
MAX_SIGNS: Final = 100_000
LOST: Final = MeshEvent("")
"""Stands where something was dropped."""


class Inbox:
    """`put` from any thread, `get` from the event loop that made it.

    A reader that does not keep up loses messages, never signs of life, short of a flood of them; LOST tells it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events: deque[MeshEvent] = deque()
        self._messages = 0
        self._signs = 0
        self._bytes = 0
        self._has_lost = False
        self._is_closed = False
        self._is_woken = False
        self._news = asyncio.Event()

    def put(self, event: MeshEvent) -> None:
        """Take an event in, or drop it if there are too many."""
        with self._lock:
            if self._is_closed:
                return
            if not self._has_room(event):
                if not self._has_lost:
                    self._has_lost = True
                    self._events.append(LOST)
            else:
                self._count(event, 1)
                self._events.append(event)
            self._wake()

    async def get(self) -> MeshEvent | None:
        """The next one; None once it is closed."""
        while True:
            with self._lock:
                if self._is_closed:
                    return None
                if self._events:
                    event = self._events.popleft()
                    if event is LOST:
                        self._has_lost = False
                    else:
                        self._count(event, -1)
                    return event
                self._is_woken = False
                self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Nothing comes or goes any more. Called in the event loop. Idempotent."""
        with self._lock:
            self._is_closed = True
            self._events.clear()
        self._news.set()

    def _has_room(self, event: MeshEvent) -> bool:
        if event.alive is not None:
            return self._signs < MAX_SIGNS
        return self._messages < MAX_MESSAGES and self._bytes + len(event.data) <= MAX_BYTES

    def _count(self, event: MeshEvent, number: int) -> None:
        if event.alive is not None:
            self._signs += number
        else:
            self._messages += number
            self._bytes += number * len(event.data)

    def _wake(self) -> None:
        """Once for many."""
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:  # the loop was closed while zenoh's threads still spoke
                self._is_closed = True
