"""What happened in the cluster, as far as this node remembers; for people who look now, and who look on."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from ollamamax.core.types import ClusterEvent

_LOG: Final = structlog.get_logger("cluster")
REMEMBERED: Final = 1_000


class EventLog:
    """The last thousand events. Each has a time of its own, so that a reader can go on after one."""

    def __init__(self) -> None:
        self._events: deque[ClusterEvent] = deque(maxlen=REMEMBERED)
        self._last_ns = 0
        self._news = asyncio.Event()
        self._is_closed = False

    def add(self, event: ClusterEvent) -> None:
        """Remember it, log it, tell those who look on."""
        self._last_ns = max(event.at_ns, self._last_ns + 1)
        self._events.append(replace(event, at_ns=self._last_ns))
        _LOG.info(event.text or event.kind, event_kind=event.kind, node=event.node)
        self._wake()

    def recent(self) -> Sequence[ClusterEvent]:
        """Oldest first."""
        return tuple(self._events)

    async def follow(self, after_ns: int) -> AsyncGenerator[ClusterEvent, None]:
        """The remembered ones after that time, then each as it happens; ends with close().

        A reader that is slower than a thousand events misses some.
        """
        while True:
            news = self._news
            for event in [one for one in self._events if one.at_ns > after_ns]:
                after_ns = event.at_ns
                yield event
            if self._is_closed:
                return
            if self._last_ns <= after_ns:
                await news.wait()

    def close(self) -> None:
        """Let the readers go. Idempotent."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
