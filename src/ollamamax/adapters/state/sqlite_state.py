"""The replicated state in one SQLite file: for the node that holds it.

A transaction is on disk when it returns (write-ahead log, synchronous=FULL); what waits together shares one sync.
Reads see only what is on disk, so all of them are linearizable. Times of leases are kept in memory: a lease that was
granted before a restart gets its whole time anew, for a clock that stood still proves nothing.

Deliberate limits: one process; history is kept by number of revisions, not by bytes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar, cast

import structlog

from ollamamax.adapters.state.change_feed import ChangeFeed
from ollamamax.adapters.state.sqlite_file import check, create, explained, lock
from ollamamax.adapters.state.sqlite_ledger import Ledger
from ollamamax.adapters.state.sqlite_reader import Reader
from ollamamax.adapters.state.sqlite_snapshots import Snapshots
from ollamamax.adapters.state.sqlite_writer import Writer
from ollamamax.core.errors import DiskFull, LeaseNotFound, OllamaMaxError, StateCorrupt, StateError, StateUnavailable
from ollamamax.core.types import StateBatch, StateEntry, StateRange, StateTxn, TxnResult
from ollamamax.core.types.state import MAX_STATE_BYTES, check_ttl, check_txn
from ollamamax.ports import Clock

_A = TypeVar("_A")
_T = TypeVar("_T")
_LOG: Final = structlog.get_logger(__name__)
_LEASE_RETRY_MS: Final = 1_000.0
_KEEP_REVISIONS: Final = 10_000
_HEARTBEAT_MS: Final = 1_000.0
_SNAPSHOT_EVERY_MS: Final = 300_000.0


class _Parts:
    """What open() makes in a thread: lock, ledger, reader, snapshots."""

    def __init__(self, path: Path, keep_revisions: int, limit_bytes: int) -> None:
        self.snapshots = Snapshots(path)
        self.lock = lock(path)
        try:
            self._make_or_check(path)
            self.ledger = Ledger(path, keep_revisions=keep_revisions, limit_bytes=limit_bytes)
            try:
                self.leases = self.ledger.leases()
                self.reader = Reader(path)
            except BaseException:
                self.ledger.close()
                raise
        except StateCorrupt as error:
            self.lock.release()
            raise self.snapshots.advice(str(error)) from error
        except BaseException:
            self.lock.release()
            raise

    def _make_or_check(self, path: Path) -> None:
        if path.exists():
            check(path)
            return
        if self.snapshots.all():
            raise StateCorrupt("the file is missing")  # an empty one in its place would be another cluster's
        with explained(path):
            create(path)

    def close(self) -> None:
        self.reader.close()
        self.ledger.close()
        self.lock.release()


class SqliteState:
    """A StateStore. Made by open()."""

    def __init__(self, parts: _Parts, clock: Clock, heartbeat_ms: float, snapshot_every_ms: float) -> None:
        self._parts = parts
        self._clock = clock
        self._feed = ChangeFeed(parts.ledger.revision, heartbeat_ms)
        self._reads = ThreadPoolExecutor(1, "ollamamax-state-reads")
        self._writer = Writer(parts.ledger, parts.snapshots, clock, self._feed.publish, snapshot_every_ms)
        now_ms = clock.now_ms()
        self._leases = {lease_id: (ttl_ms, now_ms + ttl_ms) for lease_id, ttl_ms in parts.leases.items()}
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: Clock,
        *,
        keep_revisions: int = _KEEP_REVISIONS,
        heartbeat_ms: float = _HEARTBEAT_MS,
        snapshot_every_ms: float = _SNAPSHOT_EVERY_MS,
        limit_bytes: int = MAX_STATE_BYTES,
    ) -> Self:
        """Open the file, or make it; beside it lie `<path>.lock` and `<path>.snapshots/`.

        keep_revisions: how far back a watch may begin, at least.  heartbeat_ms: between signs of life of a watch.
        snapshot_every_ms: at most so often, and only after changes; one more at close.  limit_bytes: of all entries.

        Raises: StoreInUse if another process has it; StateCorrupt, which names the snapshot to go back to, and
        StateTooNew, both with the file left as it is; DiskFull, StoreReadOnly, StoreError, StateError.
        """
        made = asyncio.get_running_loop().run_in_executor(None, _Parts, path, keep_revisions, limit_bytes)
        try:
            parts = await asyncio.shield(made)
        except asyncio.CancelledError:
            made.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().close())
            raise
        return cls(parts, clock, heartbeat_ms, snapshot_every_ms)

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """The entry of a key, or None; always linearizable."""
        await self._look()
        return await self._read(self._parts.reader.get, key)

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """All entries below a prefix, in key order; always linearizable."""
        await self._look()
        return await self._read(self._parts.reader.range, prefix)

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Apply it; on return it is on disk.

        Raises: BadRequest, LeaseNotFound, DiskFull, StateError, StateUnavailable.
        """
        check_txn(txn)
        await self._look()
        return cast(TxnResult, await self._writer.do(lambda ledger: ledger.txn(txn)))

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes from there on. A reader may be as slow as the history is long. Raises: StateCompacted."""
        await self._look()
        cursor = after_revision
        batches: list[StateBatch] | None = await self._read(self._parts.reader.since, cursor)
        yield StateBatch(cursor, ())
        spoke_s = _now_s()
        with self._feed.reading():
            while True:
                for batch in batches or ():
                    cursor = batch.revision
                    events = tuple(event for event in batch.events if event.entry.key.startswith(prefix))
                    if events:
                        yield batch if len(events) == len(batch.events) else StateBatch(cursor, events)
                        spoke_s = _now_s()
                due_s = spoke_s + self._feed.heartbeat_s
                if not batches:
                    await self._feed.wait(min(due_s - _now_s(), self._lease_s()))
                if _now_s() >= due_s:
                    yield StateBatch(cursor, ())
                    spoke_s = _now_s()
                await self._look()
                batches = self._feed.since(cursor)
                if batches is None:
                    batches = await self._read(self._parts.reader.since, cursor)

    async def grant_lease(self, ttl_ms: int) -> int:
        """A new lease. Raises: BadRequest, DiskFull, StateError, StateUnavailable."""
        check_ttl(ttl_ms)
        await self._look()
        return cast(int, await self._writer.do(lambda ledger: ledger.grant(ttl_ms), self._begin_lease(ttl_ms)))

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew; touches no disk. Raises: LeaseNotFound."""
        await self._look()
        if lease_id not in self._leases:
            raise LeaseNotFound(f"the lease {lease_id} has ended")
        ttl_ms, _ = self._leases[lease_id]
        self._leases[lease_id] = (ttl_ms, self._clock.now_ms() + ttl_ms)

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now, and its keys with it. Raises: DiskFull, StateError, StateUnavailable."""
        await self._look()
        await self._end(lease_id)

    async def close(self) -> None:
        """Finish what was begun, make a snapshot of changes, let go of the file. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._feed.wake()
        await asyncio.to_thread(self._writer.stop)
        await asyncio.to_thread(self._reads.shutdown)
        await asyncio.to_thread(self._parts.close)

    async def _look(self) -> None:
        """What every call begins with: is it open, and which leases have ended?"""
        if self._closing is not None:
            raise StateUnavailable("the node that holds the cluster's state is stopping")
        now_ms = self._clock.now_ms()
        for lease_id in [lease_id for lease_id, (_, due_ms) in self._leases.items() if due_ms <= now_ms]:
            try:
                await self._end(lease_id)
            except (DiskFull, StateError) as error:  # must not keep anybody from reading
                _LOG.warning("state_lease_not_ended", lease_id=lease_id, reason=str(error))
                self._leases[lease_id] = (self._leases[lease_id][0], now_ms + _LEASE_RETRY_MS)

    def _begin_lease(self, ttl_ms: int) -> Callable[[object], None]:
        def begin(lease_id: object) -> None:
            self._leases[cast(int, lease_id)] = (ttl_ms, self._clock.now_ms() + ttl_ms)
            self._feed.wake()

        return begin

    async def _end(self, lease_id: int) -> None:
        times = self._leases.pop(lease_id, None)
        if times is None:
            return  # it has ended, or somebody else is just ending it
        try:
            await self._writer.do(lambda ledger: ledger.end(lease_id))
        except (OllamaMaxError, asyncio.CancelledError):
            self._leases[lease_id] = times  # whoever looks next ends it
            raise

    async def _read(self, function: Callable[[_A], _T], argument: _A) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reads, function, argument)
        except StateCorrupt as error:
            raise await asyncio.to_thread(self._parts.snapshots.advice, str(error)) from error

    def _lease_s(self) -> float:
        """Until the next lease ends."""
        due_ms = min((due_ms for _, due_ms in self._leases.values()), default=float("inf"))
        return max(0.001, (due_ms - self._clock.now_ms()) / 1000.0)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
