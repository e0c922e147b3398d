"""Stands before a store of this node's: what is no more the state's home takes no changes, whoever asks.

The store says itself whether it is the home (the record `state/home`). Nearly every transaction compares that record,
so one look at each of its revisions is enough.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from ollamamax.core.catalog import records
from ollamamax.core.catalog.records import HOME_KEY
from ollamamax.core.errors import StateElsewhere, StateUnavailable
from ollamamax.core.types import StateBatch, StateEntry, StateEvent, StateHome, StateRange, StateTxn, TxnResult
from ollamamax.ports import StateStore

_LEFT: Final = "the cluster's state has moved away from this node"


class Gate:
    """A StateStore. is_home: whether what the store says of the home (None = nothing) means this store."""

    def __init__(self, store: StateStore, is_home: Callable[[StateHome | None], bool]) -> None:
        self._store = store
        self._is_home = is_home
        self._open_at = -1
        """The record's revision at which this was the home, and steady."""

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """See StateStore."""
        entry = await self._store.get(key, linearizable=linearizable)
        if linearizable:
            await self._home()
        return entry

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """See StateStore."""
        found = await self._store.range(prefix, linearizable=linearizable)
        if linearizable:
            await self._home()
        return found

    async def txn(self, txn: StateTxn) -> TxnResult:
        """See StateStore. Raises: StateElsewhere if the state has moved; StateUnavailable while it moves."""
        compared = next((compare.revision for compare in txn.compares if compare.key == HOME_KEY), None)
        if compared is None or compared != self._open_at:
            revision, home = await self._home()
            if home is not None and home.phase == "moving":
                if not any(write.key == HOME_KEY for write in txn.writes):
                    raise StateUnavailable("the cluster's state is being moved to a new home: try again in a moment")
            else:
                self._open_at = revision
        return await self._store.txn(txn)

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """See StateStore. Ends with StateElsewhere once it has told that the state has moved."""
        entry = await self._store.get(HOME_KEY)
        left_at = entry.revision if entry is not None else 0
        if not self._is_home(_decoded(entry)) and after_revision >= left_at:
            raise StateElsewhere(_LEFT)
        async with aclosing(self._store.watch(prefix, after_revision)) as batches:
            async for batch in batches:
                yield batch
                if any(self._tells_to_leave(event) for event in batch.events):
                    raise StateElsewhere(_LEFT)

    async def grant_lease(self, ttl_ms: int) -> int:
        """See StateStore."""
        return await self._store.grant_lease(ttl_ms)

    async def renew_lease(self, lease_id: int) -> None:
        """See StateStore."""
        await self._store.renew_lease(lease_id)

    async def revoke_lease(self, lease_id: int) -> None:
        """See StateStore."""
        await self._store.revoke_lease(lease_id)

    async def close(self) -> None:
        """See StateStore."""
        await self._store.close()

    async def _home(self) -> tuple[int, StateHome | None]:
        """What the store says of the home, and since when. Raises: StateElsewhere if that is another one."""
        entry = await self._store.get(HOME_KEY, linearizable=True)
        home = _decoded(entry)
        if not self._is_home(home):
            raise StateElsewhere(_LEFT)
        return entry.revision if entry is not None else 0, home

    def _tells_to_leave(self, event: StateEvent) -> bool:
        return event.entry.key == HOME_KEY and not event.is_delete and not self._is_home(_decoded(event.entry))


def _decoded(entry: StateEntry | None) -> StateHome | None:
    """Raises: StateCorrupt, StateTooNew."""
    if entry is None:
        return None
    home = records.decode(HOME_KEY, entry.value)
    assert isinstance(home, StateHome), "that is what lies under this key"
    return home
