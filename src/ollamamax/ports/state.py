"""What the cluster agrees on: a small store of keys with revisions. Behind it: SQLite, or another node that has it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from ollamamax.core.types import StateBatch, StateEntry, StateHome, StateRange, StateTxn, TxnResult


class StateStore(Protocol):
    """Strict serializable transactions; reads may be stale unless `linearizable` is asked for.

    All methods may raise StateUnavailable: the state can't be reached now. A transaction that raises it may have
    been applied all the same; compares make a repeat harmless.
    """

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """The entry of a key, or None."""
        ...

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """All entries whose key begins with `prefix` ("" = all), in key order."""
        ...

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Apply a transaction; on return it is on disk.

        Raises: BadRequest for a key written twice or too much, LeaseNotFound, DiskFull, StateError.
        """
        ...

    def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes below `prefix` with a revision greater than `after_revision`, in order, without gaps, for ever.

        An empty batch comes first of all, once the watch stands, and then now and then as a sign of life.
        Raises: StateCompacted if that far back is no longer kept, or lies ahead of the store, which then was put back
        to an earlier state (read anew with range()). StateUnavailable when the store is lost or closed.
        """
        ...

    async def grant_lease(self, ttl_ms: int) -> int:
        """A lease that ends, and its keys with it, unless it is renewed within `ttl_ms`.

        Raises: BadRequest for a time that is none, or more than a day; DiskFull, StateError.
        """
        ...

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew; costs no write. Raises: LeaseNotFound if it has ended."""
        ...

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now and delete its keys; nothing happens if it has ended."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; open watches and later calls raise StateUnavailable. Idempotent."""
        ...


class SnapshotFile(Protocol):
    """Where a node keeps the last state that it has seen, for times when nobody else can tell it."""

    async def load(self) -> StateRange | None:
        """None if there is none yet. Raises: StateCorrupt, StateTooNew, StoreError; the file is left as it is."""
        ...

    async def save(self, state: StateRange) -> None:
        """Replace it, durably. Raises: DiskFull, StoreError; then the former one stands."""
        ...


class OwnStates(Protocol):
    """The states that this node keeps itself, each as of the move that brought it here.

    All methods may raise StoreInUse, StateCorrupt, StateTooNew, StateError, DiskFull, StoreReadOnly, StoreError.
    """

    async def find(self, make: bool) -> tuple[StateStore | None, StateHome]:
        """The newest one, if it says of itself that it is the cluster's home, else None; and what it says of the home.

        make: an empty one where there is none, for a cluster that is being founded.
        """
        ...

    async def begin(self, generation: int, after_revision: int) -> StateStore:
        """A new, empty one whose revisions are all > `after_revision`; what was begun for that generation is gone."""
        ...

    async def reopen(self, generation: int) -> StateStore | None:
        """What begin() made; None if there is none."""
        ...

    async def discard(self, generation: int) -> None:
        """Remove what begin() made. Idempotent; nobody has it open."""
        ...


class Backups(Protocol):
    """Copies of the state on this node's disk, the newest ones of them.

    All methods may raise DiskFull, StoreReadOnly, StoreError.
    """

    async def add(self, state: StateRange, at_ns: int) -> None:
        """Keep one more; the oldest go."""
        ...

    async def last_ns(self) -> int:
        """When the newest one was made; 0 = there is none."""
        ...

    def encode(self, state: StateRange) -> bytes:
        """As the file of a copy has it."""
        ...
