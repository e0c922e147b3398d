"""The last changes of a store, in memory, for those who follow it."""

import asyncio
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from ollamamax.core.types import StateBatch

_KEEP: Final = 512
_MANY: Final = 64


class ChangeFeed:
    """Readers keep a place of their own and come back for more: a slow one costs no memory.

    revision: of the last change, when the feed begins.  heartbeat_ms: between two signs of life of a watch; twice that
    when many follow, so that signs of life alone never keep a node busy.
    """

    def __init__(self, revision: int, heartbeat_ms: float) -> None:
        self.revision = revision
        self._heartbeat_s = heartbeat_ms / 1000.0
        self._recent: deque[StateBatch] = deque(maxlen=_KEEP)
        self._changed = asyncio.Event()
        self._readers = 0

    @property
    def heartbeat_s(self) -> float:
        """Between two signs of life, now."""
        return self._heartbeat_s * (2.0 if self._readers > _MANY else 1.0)

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        """Counts as a reader meanwhile."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    def publish(self, batches: Sequence[StateBatch]) -> None:
        """The next changes, without a gap."""
        if batches:
            assert batches[0].revision == self.revision + 1, "a change is missing"
            self._recent.extend(batches)
            self.revision = batches[-1].revision
            self.wake()

    def since(self, revision: int) -> list[StateBatch] | None:
        """All changes after `revision`; None if that is further back than what is here."""
        first = self.revision - len(self._recent) + 1
        if revision + 1 < first:
            return None
        return list(islice(self._recent, revision + 1 - first, None))

    def wake(self) -> None:
        """Let all waiting readers look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Returns after the next change or wake(), or when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
