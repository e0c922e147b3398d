"""The replicated state's data model: keys with revisions, transactions, events. Shaped as etcd's v3 API is.

One revision counts all changes of the store; every transaction that changes something raises it by one.

A key is 1 to 512 bytes of printable UTF-8. Values, transactions and the whole are bounded, so that the whole always
fits into one answer between nodes.
"""

from typing import Final

from msgspec import Struct

from ollamamax.core.errors import BadRequest

MAX_KEY_BYTES: Final = 512
MAX_VALUE_BYTES: Final = 256 << 10
MAX_TXN_PARTS: Final = 256
"""Compares and writes of one transaction together."""
MAX_TXN_BYTES: Final = 1 << 20
"""Entries written by one transaction, by size_bytes()."""
MAX_STATE_BYTES: Final = 32 << 20
"""All entries together, by size_bytes()."""
MAX_LEASE_MS: Final = 86_400_000


class StateEntry(Struct, frozen=True):
    """A key and its value. created, revision: when the key was made, and last changed.  lease_id: 0 = none."""

    key: str
    value: bytes
    created: int
    revision: int
    lease_id: int = 0


class StateRange(Struct, frozen=True):
    """The entries below a prefix in key order, as of one revision of the store."""

    revision: int
    entries: tuple[StateEntry, ...]


class Compare(Struct, frozen=True):
    """Holds if the key was last changed at `revision`; 0 = the key must not exist."""

    key: str
    revision: int


class Put(Struct, frozen=True, tag=True):
    """Write a key. lease_id: it goes when that lease ends, 0 = it stays."""

    key: str
    value: bytes
    lease_id: int = 0


class Delete(Struct, frozen=True, tag=True):
    """Remove a key; nothing happens if there is none."""

    key: str


class StateTxn(Struct, frozen=True):
    """All writes if all compares hold, else none. No key is written twice."""

    compares: tuple[Compare, ...]
    writes: tuple[Put | Delete, ...]


class TxnResult(Struct, frozen=True):
    """ok: whether the compares held.  revision: of the store, after the writes."""

    ok: bool
    revision: int


class StateEvent(Struct, frozen=True):
    """One change. Of a deletion the value is empty and `entry.revision` is that of the deletion."""

    entry: StateEntry
    is_delete: bool = False


class StateBatch(Struct, frozen=True):
    """All changes of one revision that a watch asked for, whole. No events: nothing changed up to `revision`."""

    revision: int
    events: tuple[StateEvent, ...]


class StateQuery(Struct, frozen=True):
    """Asks another node for the entry of a key, or for a range (then `key` is the prefix)."""

    key: str
    linearizable: bool = False


class StateFollow(Struct, frozen=True):
    """Asks another node for a watch."""

    prefix: str
    after_revision: int


class LeaseCall(Struct, frozen=True):
    """Asks another node to grant (lease_id 0, ttl_ms), renew or revoke a lease; and the answer to a grant."""

    lease_id: int
    ttl_ms: int = 0


def size_bytes(key: str, value: bytes) -> int:
    """What an entry counts for: its bytes, and 64 for revisions, names of fields and the like."""
    return len(key.encode()) + len(value) + 64


def check_txn(txn: StateTxn) -> None:
    """Raises: BadRequest for a key written twice, a key outside the grammar, or too much."""
    if len(txn.compares) + len(txn.writes) > MAX_TXN_PARTS:
        raise BadRequest(f"a transaction of the cluster's state has more than {MAX_TXN_PARTS} parts")
    written: set[str] = set()
    total_bytes = 0
    for write in txn.writes:
        _check_key(write.key)
        if write.key in written:
            raise BadRequest(f'the key "{write.key}" is written twice in one transaction')
        written.add(write.key)
        if isinstance(write, Put):
            if len(write.value) > MAX_VALUE_BYTES:
                raise BadRequest(f'the value of "{write.key}" has more than {MAX_VALUE_BYTES} bytes')
            total_bytes += size_bytes(write.key, write.value)
    if total_bytes > MAX_TXN_BYTES:
        raise BadRequest(f"a transaction of the cluster's state writes more than {MAX_TXN_BYTES} bytes")


def check_ttl(ttl_ms: int) -> None:
    """Raises: BadRequest for one that is no time, or more than a day."""
    if not 0 < ttl_ms <= MAX_LEASE_MS:
        raise BadRequest(f"a lease lasts 1 to {MAX_LEASE_MS} ms, not {ttl_ms}")


def _check_key(key: str) -> None:
    if not key or not key.isprintable() or len(key.encode()) > MAX_KEY_BYTES:
        raise BadRequest(f"a key of the cluster's state is 1 to {MAX_KEY_BYTES} printable bytes, not {key[:80]!r}")
