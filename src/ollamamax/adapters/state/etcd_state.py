"""The replicated state in etcd: for the nodes that talk to it themselves.

A transaction is on the disks of a majority when it returns. Reads that need not be linearizable are answered by the
member that was asked, from what it knows. One watch per node serves all who follow the state by way of it.

Deliberate limits: where others write to the same etcd, revisions have gaps. Leases last whole seconds, at least etcd's
own shortest time (1.5 times its election timeout); they end up to a second late. The bound on all entries together is
kept by each node for itself, so writes of several nodes at the same moment can go a little beyond it.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from typing import Final, Self

from ollamamax.adapters.state.change_feed import ChangeFeed
from ollamamax.adapters.state.etcd_client import EtcdClient
from ollamamax.adapters.state.etcd_feed import EtcdFeed
from ollamamax.adapters.state.etcd_keys import EtcdKeys
from ollamamax.adapters.state.etcd_wire import Wire
from ollamamax.core.errors import CertificateRefused, LeaseNotFound, StateElsewhere, StateError, StateUnavailable
from ollamamax.core.types import EtcdAccess, StateBatch, StateEntry, StateRange, StateTxn, TxnResult
from ollamamax.core.types.state import MAX_STATE_BYTES, check_ttl, check_txn

_HEARTBEAT_MS: Final = 1_000.0
_STANDING_S: Final = 2.0
_KEEP: Final = 512


class EtcdState:
    """An EtcdStore. Made by open()."""

    def __init__(self, client: EtcdClient, keys: EtcdKeys, feed: EtcdFeed, limit_bytes: int) -> None:
        self._client = client
        self._keys = keys
        self._feed = feed
        self._limit_bytes = limit_bytes
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        access: EtcdAccess,
        cluster_id: str,
        *,
        heartbeat_ms: float = _HEARTBEAT_MS,
        keep: int = _KEEP,
        limit_bytes: int = MAX_STATE_BYTES,
    ) -> Self:
        """Ready to be asked; whether etcd is there is found out then.

        heartbeat_ms: between signs of life of a watch.  keep: changes in memory, so that a watch which begins there
        needs none of its own in etcd.  limit_bytes: of all entries.

        Raises: StateError if no endpoint is given.
        """
        client = await EtcdClient.open(access)
        keys = EtcdKeys(client, Wire(client.pb, cluster_id))
        feed = EtcdFeed(client, keys, heartbeat_ms, keep)
        feed.start()
        return cls(client, keys, feed, limit_bytes)

    async def check(self) -> int:
        """Ask a majority once; the revision now. Raises: CertificateRefused, StateUnavailable, StateError."""
        self._look()
        return (await self._keys.origin())[1]

    async def begin(self, after_revision: int) -> int:
        """Remove all keys, and count on after a revision.

        Raises: CertificateRefused, StateUnavailable, StateError, DiskFull.
        """
        self._look()
        return await self._keys.begin(after_revision)

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """The entry of a key, or None."""
        self._look()
        with _reached():
            return await self._keys.get(key, linearizable=linearizable)

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """All entries below a prefix, in key order."""
        self._look()
        with _reached():
            return (await self._keys.range(prefix, linearizable=linearizable))[1]

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Apply it; on return it is on the disks of a majority.

        Raises: BadRequest, LeaseNotFound, DiskFull, StateError; StateUnavailable, and then it may have been applied.
        """
        check_txn(txn)
        self._look()
        before, after = self._feed.grown(txn)
        if after > self._limit_bytes and after > before:
            raise StateError(f"the cluster's state is full: it may hold {self._limit_bytes} bytes")
        with _reached():
            result = await self._keys.txn(txn)
        if result.ok:
            self._feed.note(txn)
        return result

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes from there on. Raises: StateCompacted; StateUnavailable when etcd is lost."""
        self._look()
        changes = await self._feed.standing(_STANDING_S)
        cursor = after_revision
        if changes.since(cursor) is not None:
            if cursor > changes.revision:
                with _reached():
                    await self._feed.check(cursor)
            yield StateBatch(cursor, ())
        while True:
            if changes.since(cursor) is None:
                async with aclosing(self._older(changes, cursor)) as older:
                    async for batch in older:
                        cursor = batch.revision
                        if not batch.events or (batch := _below(prefix, batch)).events:
                            yield batch
            async with aclosing(self._recent(changes, prefix, cursor)) as told:
                async for batch in told:
                    cursor = batch.revision
                    yield batch

    async def _older(self, changes: ChangeFeed, cursor: int) -> AsyncGenerator[StateBatch, None]:
        """Changes by a watch of its own, and signs of life, until memory has what comes next."""
        with _reached():
            async with aclosing(self._feed.follow(cursor)) as groups:
                async for batches in groups:
                    for batch in batches or (StateBatch(cursor, ()),):
                        cursor = batch.revision
                        yield batch
                    if changes.since(cursor) is not None:
                        return

    async def _recent(self, changes: ChangeFeed, prefix: str, cursor: int) -> AsyncGenerator[StateBatch, None]:
        """Changes from memory, and signs of life; ends when the reader has fallen behind."""
        spoke_s = _now_s()
        with changes.reading():
            while (batches := changes.since(cursor)) is not None:
                for batch in batches:
                    cursor = batch.revision
                    if (batch := _below(prefix, batch)).events:
                        yield batch
                        spoke_s = _now_s()
                due_s = spoke_s + changes.heartbeat_s
                if not batches:
                    await changes.wait(due_s - _now_s())
                self._look()
                if self._feed.changes is not changes or not self._feed.is_standing:
                    raise StateUnavailable(self._feed.trouble)
                if _now_s() >= due_s:
                    yield StateBatch(cursor, ())
                    spoke_s = _now_s()

    async def grant_lease(self, ttl_ms: int) -> int:
        """A new lease. Raises: BadRequest, DiskFull, StateElsewhere, StateError, StateUnavailable."""
        check_ttl(ttl_ms)
        self._look()
        request = self._client.pb.LeaseGrantRequest(TTL=-(-ttl_ms // 1000))
        with _reached():  # one that is granted twice ends by itself
            return int((await self._client.call("Lease", "LeaseGrant", request, may_repeat=True)).ID)

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew. Raises: LeaseNotFound, StateUnavailable."""
        self._look()
        with _reached():
            if await self._client.keep_alive(lease_id) <= 0:
                raise LeaseNotFound(f"the lease {lease_id} has ended")

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now, and its keys with it. Raises: StateElsewhere, StateError, StateUnavailable."""
        self._look()
        request = self._client.pb.LeaseRevokeRequest(ID=lease_id)
        try:
            with _reached():
                await self._client.call("Lease", "LeaseRevoke", request, may_repeat=True)
        except LeaseNotFound:
            return

    async def close(self) -> None:
        """Open watches end. Idempotent."""
        self._is_closed = True
        await self._feed.close()
        await self._client.close()

    def _look(self) -> None:
        if self._is_closed:
            raise StateUnavailable("the cluster's state is closed")


@contextmanager
def _reached() -> Generator[None, None, None]:
    """The port knows no certificates: whoever is refused can't reach it."""
    try:
        yield
    except CertificateRefused as error:
        raise StateElsewhere(str(error)) from error


def _below(prefix: str, batch: StateBatch) -> StateBatch:
    events = tuple(event for event in batch.events if event.entry.key.startswith(prefix))
    return batch if len(events) == len(batch.events) else StateBatch(batch.revision, events)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
