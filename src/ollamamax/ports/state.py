"""What the cluster agrees on: a small store of keys with revisions. Behind it: SQLite, or another node that has it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from ollamamax.core.types import StateBatch, StateEntry, StateRange, StateTxn, TxnResult


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

        Raises: BadRequest for a key written twice, LeaseNotFound, DiskFull, StateError.
        """
        ...

    def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes below `prefix` with a revision greater than `after_revision`, in order, without gaps, for ever.

        An empty batch comes first of all, once the watch stands, and then now and then as a sign of life.
        Raises: StateCompacted if that far back is no longer kept (read anew with range()).
        """
        ...

    async def grant_lease(self, ttl_ms: int) -> int:
        """A lease that ends, and its keys with it, unless it is renewed within `ttl_ms`."""
        ...

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew; costs no write. Raises: LeaseNotFound if it has ended."""
        ...

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now and delete its keys; nothing happens if it has ended."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; open watches end. Idempotent."""
        ...
