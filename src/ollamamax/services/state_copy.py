"""A whole state into an empty store, and whether it arrived."""

import hashlib
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from ollamamax.core.errors import StateError
from ollamamax.core.types import Put, StateEntry, StateRange, StateTxn
from ollamamax.core.types.state import size_bytes
from ollamamax.ports import StateStore

_PARTS: Final = 200
_BATCH_BYTES: Final = 512 << 10
STEP: Final = 1_000
"""A new home counts on so far behind the old one: what is written there at the very end never has a number of both."""


def lasting(state: StateRange) -> tuple[StateEntry, ...]:
    """The entries that outlive the processes that wrote them: those without a lease."""
    return tuple(entry for entry in state.entries if not entry.lease_id)


async def copy(state: StateRange, store: StateStore) -> AsyncGenerator[int, None]:
    """Write all that lasts into a store that is empty; tells how many entries are there.

    Raises: StateError if what arrived is something else; what the store raises.
    """
    entries = lasting(state)
    done = 0
    for batch in _batches(entries):
        await store.txn(StateTxn((), tuple(Put(entry.key, entry.value) for entry in batch)))
        done += len(batch)
        yield done
    arrived = await store.range("", linearizable=True)
    if digest(arrived.entries) != digest(entries):
        raise StateError("the copy of the cluster's state differs from the original; nothing was moved")


def digest(entries: Iterable[StateEntry]) -> str:
    """Of keys and values."""
    hashed = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.key):
        for part in (entry.key.encode(), entry.value):
            hashed.update(len(part).to_bytes(8, "big"))
            hashed.update(part)
    return hashed.hexdigest()


def _batches(entries: Iterable[StateEntry]) -> Iterable[list[StateEntry]]:
    batch: list[StateEntry] = []
    filled_bytes = 0
    for entry in entries:
        added_bytes = size_bytes(entry.key, entry.value)
        if batch and (len(batch) >= _PARTS or filled_bytes + added_bytes > _BATCH_BYTES):
            yield batch
            batch, filled_bytes = [], 0
        batch.append(entry)
        filled_bytes += added_bytes
    if batch:
        yield batch
