"""The last changes of a store, in memory, for those who follow it."""

import asyncio
from bisect import bisect_right
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
    when many follow, so that signs of life alone never keep a node busy.  keep: so many changes.
    has_gaps: between two changes there may be revisions that changed nothing here.
    """

    def __init__(self, revision: int, heartbeat_ms: float, *, keep: int = _KEEP, has_gaps: bool = False) -> None:
        self.revision = revision
        self._begin = revision
        self._heartbeat_s = heartbeat_ms / 1000.0
        self._keep = keep
        self._has_gaps = has_gaps
        self._recent: deque[StateBatch] = deque()
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
        """The next changes, without one left out."""
        if batches:
            first = batches[0].revision
            assert first == self.revision + 1 or (self._has_gaps and first > self.revision), "a change is missing"
            self._recent.extend(batches)
            self.revision = batches[-1].revision
            while len(self._recent) > self._keep:
                self._begin = self._recent.popleft().revision
            self.wake()

    def since(self, revision: int) -> list[StateBatch] | None:
        """All changes after `revision`; None if that is further back than what is here."""
        if revision < self._begin:
            return None
        place = bisect_right(self._recent, revision, key=lambda batch: batch.revision)
        return list(islice(self._recent, place, None))

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
