"""The replicated state in memory, and what a node remembers of it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from ollamamax.core.errors import LeaseNotFound, StateCompacted, StateError, StateUnavailable
from ollamamax.core.types import (
    Delete,
    Put,
    StateBatch,
    StateEntry,
    StateEvent,
    StateRange,
    StateTxn,
    TxnResult,
)
from ollamamax.core.types.state import MAX_STATE_BYTES, check_ttl, check_txn, size_bytes
from ollamamax.ports import Clock
from ollamamax.testing.engine import Watched

_KEEP: Final = 10_000


class MemorySnapshot(Watched):
    """A SnapshotFile. state: what lies in it.  error: raised by what is asked of it.  tries, saves: so far."""

    def __init__(self, state: StateRange | None = None) -> None:
        super().__init__()
        self.state = state
        self.error: Exception | None = None
        self.tries = self.saves = 0

    async def load(self) -> StateRange | None:
        """What was saved last. Raises: error."""
        if self.error is not None:
            raise self.error
        return self.state

    async def save(self, state: StateRange) -> None:
        """Keep it. Raises: error."""
        self.tries += 1
        self.note()
        if self.error is not None:
            raise self.error
        self.state = state
        self.saves += 1
        self.note()


class MemoryState:
    """A StateStore. Leases end when something is asked of it after their time, and while a watch stands.

    keep_revisions: how far back a watch may begin.  heartbeat_ms: between signs of life of a watch.
    limit_bytes: of all entries together.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        keep_revisions: int = _KEEP,
        heartbeat_ms: float = 1_000.0,
        limit_bytes: int = MAX_STATE_BYTES,
    ) -> None:
        self._clock = clock
        self._keep_revisions = keep_revisions
        self._heartbeat_s = heartbeat_ms / 1000.0
        self._limit_bytes = limit_bytes
        self._entries: dict[str, StateEntry] = {}
        self._history: list[StateBatch] = []
        self._revision = 0
        self._compacted = 0
        self._last_lease = 0
        self._leases: dict[int, tuple[int, float]] = {}  # id -> (ttl_ms, due_ms)
        self._changed = asyncio.Event()
        self._is_closed = self._is_cut = False

    def cut(self, is_cut: bool = True) -> None:
        """From now on, nobody reaches it (or they do again): calls and open watches raise StateUnavailable."""
        self._is_cut = is_cut
        self._wake()

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """The entry of a key, or None."""
        self._look()
        return self._entries.get(key)

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """All entries below a prefix, in key order."""
        self._look()
        keys = sorted(key for key in self._entries if key.startswith(prefix))
        return StateRange(self._revision, tuple(self._entries[key] for key in keys))

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Apply it. Raises: BadRequest, LeaseNotFound, StateError when full."""
        check_txn(txn)
        self._look()
        for compare in txn.compares:
            entry = self._entries.get(compare.key)
            if (entry.revision if entry else 0) != compare.revision:
                return TxnResult(False, self._revision)
        for write in txn.writes:
            if isinstance(write, Put) and write.lease_id and write.lease_id not in self._leases:
                raise LeaseNotFound(f"the lease {write.lease_id} has ended")
        entries = dict(self._entries)
        events = tuple(filter(None, (self._write(entries, write) for write in txn.writes)))
        before, after = _total_bytes(self._entries), _total_bytes(entries)
        if after > self._limit_bytes and after > before:
            raise StateError(f"the cluster's state is full: it may hold {self._limit_bytes} bytes")
        self._commit(entries, events)
        return TxnResult(True, self._revision)

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes from there on. Raises: StateCompacted, StateUnavailable."""
        self._look()
        cursor = after_revision
        if not self._compacted <= cursor <= self._revision:
            raise StateCompacted(f"changes after revision {after_revision} are not kept any more")
        yield StateBatch(cursor, ())
        spoke_s = _now_s()
        while True:
            self._look()
            if cursor < self._compacted:
                raise StateCompacted(f"changes after revision {cursor} are not kept any more")
            for batch in self._history[cursor - self._compacted :]:
                cursor = batch.revision
                events = tuple(event for event in batch.events if event.entry.key.startswith(prefix))
                if events:
                    yield StateBatch(cursor, events)
                    spoke_s = _now_s()
            if cursor == self._revision:
                await self._wait(spoke_s + self._heartbeat_s)
            if _now_s() >= spoke_s + self._heartbeat_s:
                yield StateBatch(cursor, ())
                spoke_s = _now_s()

    async def grant_lease(self, ttl_ms: int) -> int:
        """A new lease. Raises: BadRequest."""
        check_ttl(ttl_ms)
        self._look()
        self._last_lease += 1
        self._leases[self._last_lease] = (ttl_ms, self._clock.now_ms() + ttl_ms)
        self._wake()
        return self._last_lease

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew. Raises: LeaseNotFound."""
        self._look()
        if lease_id not in self._leases:
            raise LeaseNotFound(f"the lease {lease_id} has ended")
        ttl_ms, _ = self._leases[lease_id]
        self._leases[lease_id] = (ttl_ms, self._clock.now_ms() + ttl_ms)

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now, and its keys with it."""
        self._look()
        self._end(lease_id)

    async def close(self) -> None:
        """Open watches end."""
        self._is_closed = True
        self._wake()

    def _look(self) -> None:
        """What every call begins with: is it there, and which leases have ended?"""
        if self._is_closed or self._is_cut:
            raise StateUnavailable("the cluster's state is closed" if self._is_closed else "nobody has the state")
        now_ms = self._clock.now_ms()
        for lease_id in [lease_id for lease_id, (_, due_ms) in self._leases.items() if due_ms <= now_ms]:
            self._end(lease_id)

    def _end(self, lease_id: int) -> None:
        if self._leases.pop(lease_id, None) is None:
            return
        entries = dict(self._entries)
        keys = sorted(key for key, entry in entries.items() if entry.lease_id == lease_id)
        self._commit(entries, tuple(filter(None, (self._write(entries, Delete(key)) for key in keys))))

    def _write(self, entries: dict[str, StateEntry], write: Put | Delete) -> StateEvent | None:
        revision = self._revision + 1
        if isinstance(write, Delete):
            if entries.pop(write.key, None) is None:
                return None
            return StateEvent(StateEntry(write.key, b"", 0, revision), is_delete=True)
        old = entries.get(write.key)
        entry = StateEntry(write.key, write.value, old.created if old else revision, revision, write.lease_id)
        entries[write.key] = entry
        return StateEvent(entry)

    def _commit(self, entries: dict[str, StateEntry], events: tuple[StateEvent, ...]) -> None:
        if not events:
            return
        self._entries = entries
        self._revision += 1
        self._history.append(StateBatch(self._revision, events))
        self._compacted = max(self._compacted, self._revision - self._keep_revisions)
        del self._history[: len(self._history) - (self._revision - self._compacted)]
        self._wake()

    async def _wait(self, until_s: float) -> None:
        """For a change, for a lease that ends, or until the event loop's time is until_s."""
        due_ms = min((due_ms for _, due_ms in self._leases.values()), default=float("inf"))
        lease_s = max(0.001, (due_ms - self._clock.now_ms()) / 1000.0)
        try:
            async with asyncio.timeout(min(until_s - _now_s(), lease_s)):
                await self._changed.wait()
        except TimeoutError:
            return

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _total_bytes(entries: dict[str, StateEntry]) -> int:
    return sum(size_bytes(entry.key, entry.value) for entry in entries.values())
